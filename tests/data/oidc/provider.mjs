// A real OpenID provider for tests: npm oidc-provider (MIT), named by OIDC_PROVIDER, on a free port of this machine.
// Prints {"port": N}; lines on standard input: "rotate" changes its signing keys, "hide" makes /jwks fail, "show" ends that.
import { createServer } from 'node:http';
import { generateKeyPairSync } from 'node:crypto';
import { createInterface } from 'node:readline';

const { default: Provider } = await import(process.env.OIDC_PROVIDER);
console.info = console.warn = () => {};
let number = 0;
let hidden = false;
const pair = () => {
  number += 1;
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey.export({ format: 'jwk' });
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
  return [
    { ...rsa, kid: `rsa-${number}`, use: 'sig', alg: 'RS256' },
    { ...ec, kid: `ec-${number}`, use: 'sig', alg: 'ES256' },
  ];
};
const groups = { ann: ['ml-users'], root: ['ml-admins'], eve: ['ml-auditors'], max: [] };
const RESOURCE = 'urn:gemstead';

const server = createServer();
const make = (port) => {
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    clients: [
      {
        client_id: 'cli', application_type: 'native', token_endpoint_auth_method: 'none',
        redirect_uris: ['http://127.0.0.1/callback'], response_types: ['code'],
        grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
      },
      {
        client_id: 'machine', client_secret: 'of-the-machine', redirect_uris: [], response_types: [],
        grant_types: ['client_credentials'],
      },
      {
        client_id: 'console', client_secret: 'of-the-console', application_type: 'native',
        redirect_uris: ['http://127.0.0.1/admin/callback'], response_types: ['code'],
        grant_types: ['authorization_code', 'refresh_token'],
      },
    ],
    jwks: { keys: pair() },
    cookies: { keys: ['of tests'] },
    claims: { openid: ['sub'], profile: ['name', 'groups'] },
    scopes: ['openid', 'offline_access', 'profile'],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, name: id, groups: groups[id] ?? [] }) }),
    extraTokenClaims: (_, token) => ({ groups: groups[token.accountId] ?? ['ml-services'], org: 'acme' }),
    issueRefreshToken: (_, client) => client.grantTypeAllowed('refresh_token'),
    pkce: { required: () => true },
    ttl: { AccessToken: 600, IdToken: 600, Session: 600, Interaction: 600, Grant: 600, DeviceCode: 300 },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          scope: 'openid profile offline_access', audience: resource === RESOURCE ? 'gemstead' : 'another', accessTokenFormat: 'jwt',
          accessTokenTTL: 600, jwt: { sign: { alg: process.env.ALG ?? 'RS256' } },
        }),
      },
    },
  });
  const answer = provider.callback();
  return (request, response) => {
    if (hidden && request.url.startsWith('/jwks')) {
      response.writeHead(503).end();
      return;
    }
    answer(request, response);
  };
};
let serve = null;
server.on('request', (request, response) => serve(request, response));
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  serve = make(port);
  process.stdout.write(`${JSON.stringify({ port })}\n`);
  createInterface({ input: process.stdin })
    .on('line', (word) => {
      if (word === 'rotate') serve = make(port);
      if (word === 'hide') hidden = true;
      if (word === 'show') hidden = false;
      process.stdout.write(`${JSON.stringify({ done: word })}\n`);
    })
    .on('close', () => process.exit(0));
});
