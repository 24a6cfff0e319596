// Clients of Node: node:http with an agent that keeps connections, and fetch. They ask for trailers: whom they
// are not asked by, a proxy may keep them from (RFC 9110 section 6.5.1).
const http = require("node:http");

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

const ask = (path, method, body, headers) =>
  new Promise((resolve, reject) => {
    const request = http.request(process.env.URL + path, { agent, method, headers: { TE: "trailers", ...headers } }, async (answer) => {
      const parts = [];
      for await (const part of answer) parts.push(part);
      console.log("status", answer.statusCode, answer.httpVersion);
      for (let i = 0; i < answer.rawHeaders.length; i += 2) {
        console.log(`${answer.rawHeaders[i]}: ${answer.rawHeaders[i + 1]}`);
      }
      console.log("");
      console.log(Buffer.concat(parts).toString(), JSON.stringify(answer.trailers));
      resolve();
    });
    request.on("error", reject);
    if (headers?.Trailer) request.addTrailers({ "X-Sent": "all" });
    request.end(body);
  });

const main = async () => {
  await ask("/", "GET");
  await ask("/length", "POST", "x".repeat(100_000));
  await ask("/trailers", "POST", "body", { Trailer: "X-Sent", "Transfer-Encoding": "chunked" });
  await ask("/expect", "POST", "body", { Expect: "100-continue" });
  const stream = new ReadableStream({
    start(controller) {
      for (let i = 0; i < 10; i++) controller.enqueue(Buffer.alloc(10_000));
      controller.close();
    },
  });
  const answers = await Promise.all([
    fetch(process.env.URL + "/fetch"),
    fetch(process.env.URL + "/fetch", { method: "PUT", body: stream, duplex: "half" }),
  ]);
  for (const answer of answers) console.log(answer.status, await answer.text());
  agent.destroy();
};

main();
