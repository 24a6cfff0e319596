// CloudEvents' SDK for JavaScript:
//
//   events.mjs message MODE   an event (stdin) as a request: {"headers", "body"}
//   events.mjs read           a request (stdin: {"headers", "body"}) as an event
import { readFileSync } from "node:fs";
import { CloudEvent, HTTP } from "cloudevents";

const [command, mode] = process.argv.slice(2);
const said = JSON.parse(readFileSync(0, "utf8"));
if (command === "message") {
  const event = new CloudEvent({ ...said.attributes, data: said.data });
  console.log(JSON.stringify(HTTP[mode](event)));
} else {
  const { data, ...attributes } = HTTP.toEvent(said).toJSON();
  attributes.time = attributes.time.replace(".000Z", "Z");
  console.log(JSON.stringify({ attributes, data }));
}
