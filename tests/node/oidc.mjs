// A certified OpenID Connect provider on a port of its own, for the tests: anybody may sign in, with any password.
// argv: port, client id, client secret, redirect URI. Prints a line once it listens.
import { Provider } from "oidc-provider";

const [port, id, secret, redirect] = process.argv.slice(2);
const issuer = `http://127.0.0.1:${port}`;
const API = "urn:leifeng:api";

const provider = new Provider(issuer, {
  clients: [
    { client_id: id, client_secret: secret, redirect_uris: [redirect], grant_types: ["authorization_code"], response_types: ["code"] },
    {
      client_id: "program", client_secret: "of-a-program", grant_types: ["client_credentials"], redirect_uris: [], response_types: [],
    },
  ],
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (context, resource) => ({
        scope: "", audience: resource === API ? "leifeng" : resource, accessTokenFormat: "jwt", accessTokenTTL: resource.endsWith("long") ? 3600 : 600,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
  findAccount: (context, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  cookies: { keys: ["of-the-tests"] },
});

provider.listen(Number(port), "127.0.0.1", () => console.log("listening"));
