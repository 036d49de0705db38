// The network in the page: unpacked and started when it is first asked for.

import { bytesOf, inflate } from "./numbers.js";

const CHUNK = 2 ** 20; // letters of base64 decoded between two steps of the progress bar

/** Why the network cannot run here, in words for the reader. */
export class EngineError extends Error {}

/** What this browser lacks to run a network, or "". */
export const lacking = () => {
  if (typeof WebAssembly !== "object") return "WebAssembly";
  if (typeof Worker !== "function") return "web workers";
  if (typeof DecompressionStream !== "function") return "decompression";
  // A function that returns a vector: i32.const 0, i8x16.splat, drop.
  const vectors = Uint8Array.of(
    0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11);
  return WebAssembly.validate(vectors) ? "" : "WebAssembly's vector instructions";
};

/** Load a script that leaves packed parts in `self.ttameParts`. */
const loadScript = (address) => new Promise((resolve, reject) => {
  const script = Object.assign(document.createElement("script"), { src: address });
  script.onload = () => { script.remove(); resolve(); };
  script.onerror = () => reject(new EngineError(
    `The file ${address} cannot be loaded; it belongs beside this page.`));
  document.head.append(script);
});

/** The base64 text of a part, from an element of this page or a script beside it. */
const textOf = async ({ name, digest, element, script }) => {
  if (element) return document.getElementById(element).textContent;
  if (!self.ttameParts?.[name]) await loadScript(script);
  const { [name]: part, ...others } = self.ttameParts ?? {};
  self.ttameParts = others; // of this one only its bytes are needed from here
  if (part?.digest !== digest) {
    throw new EngineError(`The file ${script} belongs to another page; make both anew.`);
  }
  return part.text;
};

const breathe = () => new Promise((resolve) => setTimeout(resolve));

const unpack = async (part, step) => {
  const text = await textOf(part), chunks = [];
  for (let at = 0; at < text.length; at += CHUNK) {
    step(at / text.length);
    chunks.push(bytesOf(text.slice(at, at + CHUNK)));
    await breathe();
  }
  return inflate(chunks, "gzip");
};

/**
 * Prepare to run a network; nothing is loaded before `run` or `start` is called.
 *
 * @param live `{parts, worker}`: the packed parts and the text of the worker.
 * @param report Called with the share of the start that is done, in [0, 1].
 * @returns `{start, run, running}`; `run` takes a normalised photo, its shape and a class.
 */
export const createEngine = ({ parts, worker: text }, report) => {
  const waiting = new Map();
  let worker, started, runs = false, count = 0;

  const fail = (error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
    worker?.terminate();
    worker = started = undefined;
    runs = false;
  };
  const ask = (message, moved = []) => new Promise((resolve, reject) => {
    const id = ++count;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...message }, moved);
  });

  const load = async () => {
    const missing = lacking();
    if (missing) throw new EngineError(`This browser lacks ${missing}, which the network needs.`);
    const bytes = {};
    for (const [i, part] of parts.entries()) {
      bytes[part.name] = await unpack(part, (share) => report((0.8 * (i + share)) / parts.length));
    }
    report(0.8);
    const address = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
    worker = new Worker(address);
    worker.onmessage = ({ data: { id, error, ...answer } }) => {
      const asked = waiting.get(id);
      waiting.delete(id);
      if (error === undefined) asked?.resolve(answer);
      else asked?.reject(new Error(error));
    };
    worker.onerror = (event) => fail(new Error(event.message));
    await ask(bytes, Object.values(bytes).map(({ buffer }) => buffer));
    URL.revokeObjectURL(address);
    runs = true;
    report(1);
  };

  const told = (what, error) => {
    fail(error);
    throw error instanceof EngineError ? error : new EngineError(
      `${what} (${error?.message ?? error}). The device may lack memory.`);
  };
  const start = () => (started ??= load().catch((error) => told("The network cannot be started", error)));
  const run = async (images, shape, target = -1) => {
    await start();
    return ask({ images, shape, target }, [images.buffer])
      .catch((error) => told("The network has stopped", error));
  };
  return { start, run, running: () => runs };
};
