// A client as a stock generator makes it from api/openapi.json, at work on a
// real server: what it calls and reads is typed, so that this does not compile
// when the document lacks it, and ends with status 1 when the server differs.
//
//   HAREPOST_URL, HAREPOST_API_KEY   the server and an account
//   TARGET                           a target that answers 410
import createClient from "openapi-fetch";
import type { paths, components } from "./schema.js";

const { HAREPOST_URL: baseUrl, HAREPOST_API_KEY: key, TARGET: target } = process.env;
if (!baseUrl || !key || !target) throw new Error("HAREPOST_URL, HAREPOST_API_KEY and TARGET are needed");

const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });

function must<T>(what: string, answer: { data?: T; error?: unknown; response: Response }): T {
  if (answer.data === undefined) throw new Error(`${what}: ${answer.response.status} ${JSON.stringify(answer.error)}`);
  return answer.data;
}

async function until<T>(what: string, look: () => Promise<T | undefined>): Promise<T> {
  for (const end = Date.now() + 20_000; Date.now() < end; await new Promise((r) => setTimeout(r, 50))) {
    const found = await look();
    if (found !== undefined) return found;
  }
  throw new Error(`never: ${what}`);
}

const sent: components["schemas"]["Receipt"] = must(
  "send",
  await client.POST("/v1/send", {
    body: { target, body: { order: "ord_123" }, labels: ["generated"], delivery: { max_attempts: 1 } },
  }),
);

const delivery = await until("rejected", async () => {
  const d = must("get", await client.GET("/v1/deliveries/{id}", { params: { path: { id: sent.queue_id } } }));
  return d.status === "rejected" ? d : undefined;
});
if (delivery.attempts[0]?.http_status !== 410) throw new Error(`attempts ${JSON.stringify(delivery.attempts)}`);

const page = must("dead letters", await client.GET("/v1/dead-letters", { params: { query: { label: "generated", limit: 10 } } }));
if (page.data.length !== 1 || page.next_cursor !== null) throw new Error(`page ${JSON.stringify(page)}`);

const count = must("dry run", await client.POST("/v1/dead-letters/replay", { body: { filter: { label: "generated" }, dry_run: true } }));
if (!("dry_run" in count) || count.matched !== 1) throw new Error(`dry run ${JSON.stringify(count)}`);

const begun = must("purge", await client.DELETE("/v1/dead-letters", { params: { query: { label: "generated" } } }));
if (!("job_id" in begun)) throw new Error(`purge ${JSON.stringify(begun)}`);
await until("purged", async () => {
  const job = must("job", await client.GET("/v1/jobs/{id}", { params: { path: { id: begun.job_id } } }));
  return job.status === "done" && job.done === 1 ? job : undefined;
});

const refused = await client.GET("/v1/deliveries/{id}", { params: { path: { id: sent.queue_id } } });
if (refused.response.status !== 404 || refused.error?.error !== "not found") throw new Error("a purged delivery is there");

console.log(`a generated client sent ${sent.queue_id}, found it dead, and purged it`);
