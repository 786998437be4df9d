// Fetches frames and prepares them beside the page, which stays fluid meanwhile.
import { histogramOf, indexPlane, pyramid } from "./planes.js";

const TRIES = 6;
const abandoned = new Map();

self.addEventListener("message", async ({ data: asked }) => {
  if (asked.abandon) {
    abandoned.get(asked.key)?.abort();
    return;
  }
  const controller = new AbortController();
  abandoned.set(asked.key, controller);
  try {
    const plane = await load(asked, controller.signal);
    self.postMessage({ key: asked.key, plane }, [plane.histogram.buffer, ...plane.levels.map((l) => l.data.buffer)]);
  } catch (error) {
    const problem = error.name === "AbortError" ? "" : error.problem || "The console can't be reached.";
    self.postMessage({ key: asked.key, problem });
  } finally {
    abandoned.delete(asked.key);
  }
});

async function load({ url, image }, signal) {
  const response = await ask(url, signal);
  const buffer = await response.arrayBuffer();
  const data = indexPlane(buffer, response.headers.get("X-Values"), response.headers.get("X-Layout"), image.lowest);
  if (data.length !== image.rows * image.columns) throw failure("The frame came incomplete. Load the page again.");
  const histogram = histogramOf(data, image.padding, image.lowest, image.highest - image.lowest + 1);
  return { levels: pyramid(data, image.columns, image.rows), histogram };
}

async function ask(url, signal) {
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(url, { signal });
    if (response.redirected) throw failure("You are signed out. Load the page again to sign in.");
    if (response.ok) return response;
    if (response.status === 503 && attempt < TRIES) {
      await new Promise((resolve) => setTimeout(resolve, 1000 * Number(response.headers.get("Retry-After") || 1)));
      continue;
    }
    const type = response.headers.get("Content-Type") || "";
    const problem = type.startsWith("application/json") ? (await response.json()).problem : "";
    throw failure(problem || `The console answered ${response.status}. Its log says more.`);
  }
}

function failure(problem) {
  return Object.assign(new Error(problem), { problem });
}
