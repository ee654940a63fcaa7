module.exports = {
  ledger: {
    input: "../openapi.json",
    output: {
      target: "generated/orval.ts",
      client: "fetch",
      override: { mutator: { path: "send.ts", name: "send" } },
    },
  },
};
