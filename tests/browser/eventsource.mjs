// Follows a stream with the npm package eventsource until it has COUNT events; prints them, then how often it was
// connected. usage: eventsource.mjs URL COUNT
import { EventSource } from "eventsource";

const [url, count] = process.argv.slice(2);
const events = [];
let opened = 0;
const source = new EventSource(url);
// The server's own event of that name has data.
source.addEventListener("open", ({ data }) => { if (data === undefined) opened += 1; });
source.onmessage = ({ data, lastEventId }) => {
  const event = JSON.parse(data);
  if (String(event.id) !== lastEventId) throw new Error(`${data} came with id ${lastEventId}`);
  events.push(event);
  if (events.length < Number(count)) return;
  // Whatever is told twice would come now.
  setTimeout(() => {
    source.close();
    events.forEach((event) => console.log(JSON.stringify(event)));
    console.log(JSON.stringify({ opened }));
  }, 1000);
};
