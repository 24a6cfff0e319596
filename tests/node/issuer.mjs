// An issuer of tokens at the address and port given: node issuer.mjs ADDRESS PORT URL
//
// URL is what it calls itself. It reads one command a line and answers each with one line:
//   key                  begins anew with another key, as one that rotates does
//   more                 another key beside those that there are
//   token KID CLAIMS     a token with these claims (JSON), signed with that key
//   worth JSON           what it answers from now on to those who ask about tokens
//   asked                how often it was asked about a token
import { createInterface } from 'node:readline';
import { Events, OAuth2Server } from 'oauth2-mock-server';

const [address, port, url] = process.argv.slice(2);
let asked = 0;
let worth = { active: false };
let server;

async function begin() {
  if (server) await server.stop();
  server = new OAuth2Server();
  const key = await server.issuer.keys.generate('RS256');
  server.service.on(Events.BeforeIntrospect, (answer) => {
    asked += 1;
    answer.body = worth;
  });
  await server.start(Number(port), address);
  server.issuer.url = url;
  return key.kid;
}

const commands = {
  key: begin,
  more: async () => (await server.issuer.keys.generate('ES256')).kid,
  token: async (rest) => {
    const at = rest.indexOf(' ');
    const claims = JSON.parse(rest.slice(at + 1));
    return server.issuer.buildToken({
      kid: rest.slice(0, at),
      scopesOrTransform: (_header, payload) => Object.assign(payload, claims),
    });
  },
  worth: async (rest) => {
    worth = JSON.parse(rest);
    return 'ok';
  },
  asked: async () => asked,
};

for await (const line of createInterface({ input: process.stdin })) {
  const at = line.indexOf(' ');
  const [name, rest] = at < 0 ? [line, ''] : [line.slice(0, at), line.slice(at + 1)];
  console.log(await commands[name](rest));
}
process.exit(0);
