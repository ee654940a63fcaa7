-- Once, on the primary: the service's user and database. CREATEROLE lets the service make the login
-- of its reads by itself.
CREATE ROLE ledger LOGIN CREATEROLE PASSWORD '$ledger_password';
CREATE DATABASE ledger OWNER ledger ENCODING 'UTF8' TEMPLATE template0;
