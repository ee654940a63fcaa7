// A strict OpenID provider for `make oidc`, which signs in the person that `POST /person` named
// last. It says "ready" once it listens. The environment names its package, port and client.
import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";

const { OIDC_PACKAGE, OIDC_PORT, OIDC_LEDGER, OIDC_CLIENT, OIDC_SECRET } = process.env;
const { default: Provider } = await import(OIDC_PACKAGE);

const people = new Map();
let person = "nobody";

const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const key = { ...privateKey.export({ format: "jwk" }), kid: "strict-1", use: "sig", alg: "RS256" };

const provider = new Provider(`http://localhost:${OIDC_PORT}`, {
  clients: [
    {
      client_id: OIDC_CLIENT,
      client_secret: OIDC_SECRET,
      redirect_uris: [`${OIDC_LEDGER}/ui/oidc/callback`],
      post_logout_redirect_uris: [`${OIDC_LEDGER}/`],
      backchannel_logout_uri: `${OIDC_LEDGER}/ui/oidc/logout`,
      backchannel_logout_session_required: true,
      grant_types: ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "client_secret_basic",
    },
  ],
  claims: { openid: ["sub", "groups"], profile: ["name"], email: ["email", "email_verified"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["a key of the tests"] },
  features: {
    backchannelLogout: { enabled: true },
    devInteractions: { enabled: false },
    rpInitiatedLogout: { enabled: true },
  },
  // The provider's own way refuses loopback, where the ledger of the tests listens.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  findAccount: (_, sub) => ({
    accountId: sub,
    claims: () => ({ sub, ...people.get(sub) }),
  }),
  interactions: { url: (_, { uid }) => `/interaction/${uid}` },
  issueRefreshToken: (_, client) => client.grantTypeAllowed("refresh_token"),
  jwks: { keys: [key] },
  loadExistingGrant: async ({ oidc }) => {
    const grant = new provider.Grant({
      clientId: oidc.client.clientId,
      accountId: oidc.session.accountId,
    });
    grant.addOIDCScope("openid profile email offline_access");
    await grant.save();
    return grant;
  },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  ttl: { AccessToken: 300, AuthorizationCode: 60, Grant: 86400, IdToken: 3600, Interaction: 600,
    RefreshToken: 86400, Session: 86400 },
});

for (const name of ["server_error", "backchannel.error", "grant.error", "authorization.error"]) {
  provider.on(name, (...told) => console.error(name, ...told.filter((each) => each?.message)));
}

const answer = provider.callback();
const server = createServer(async (request, response) => {
  try {
    if (request.url === "/person" && request.method === "POST") {
      const parts = [];
      for await (const part of request) parts.push(part);
      const { sub, ...claims } = JSON.parse(Buffer.concat(parts).toString());
      people.set(sub, claims);
      person = sub;
      response.writeHead(204).end();
    } else if (request.url.startsWith("/interaction/")) {
      await provider.interactionFinished(request, response, { login: { accountId: person } });
    } else {
      answer(request, response);
    }
  } catch (error) {
    console.error(error);
    response.writeHead(500).end(String(error));
  }
});
server.listen(Number(OIDC_PORT), "localhost", () => console.log("ready"));
