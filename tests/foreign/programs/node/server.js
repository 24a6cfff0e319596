// A server of HTTP and of WebSocket: what it is sent by WebSocket it sends back.
const fs = require("node:fs");
const http = require("node:http");
const { WebSocketServer } = require("ws");

const note = (...words) => fs.appendFileSync(process.env.SAW, words.join(" ") + "\n");

const noteHead = (request) => {
  note(request.method, request.url, "HTTP/" + request.httpVersion);
  for (let i = 0; i < request.rawHeaders.length; i += 2) {
    const [name, value] = request.rawHeaders.slice(i, i + 2);
    // A new key for every connection.
    note(`${name}: ${name.toLowerCase() === "sec-websocket-key" ? value.length : value}`);
  }
  note("");
};

const server = http.createServer(async (request, response) => {
  noteHead(request);
  let size = 0;
  for await (const part of request) size += part.length;
  note("read", size, "trailers", JSON.stringify(request.trailers));
  response.writeHead(200, { "Content-Type": "text/plain", Trailer: "X-Size" });
  response.write(`read ${size}\n`);
  response.addTrailers({ "X-Size": String(size) });
  response.end();
});

const sockets = new WebSocketServer({
  server,
  perMessageDeflate: true,
  maxPayload: 8 * 1024 * 1024,
  handleProtocols: (offered) => [...offered][0],
});
sockets.on("connection", (socket, request) => {
  noteHead(request);
  socket.send("welcome");
  socket.on("message", (data, isBinary) => {
    note("message", data.length, isBinary);
    socket.send(data, { binary: isBinary });
  });
  socket.on("ping", (data) => note("ping", data));
  socket.on("close", (code, reason) => note("closed", code, reason));
  socket.on("error", (error) => note("error", error.message));
});

server.listen(Number(process.env.PORT));
