// Runs the network beside the page, so that the page stays responsive.
//
// First message: {script, wasm, model}, bytes. Answer: {ready}. Then {id, images, shape, target}:
// one normalised photo and a class, -1 for the predicted one. Answer: {id, logits, target, map,
// size, milliseconds}. Whatever goes wrong is answered by {id, error}.

let session, ort;

const start = async ({ script, wasm, model }) => {
  const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1; // more threads need headers that no file and few hosts send
  session = await ort.InferenceSession.create(model);
  return { ready: true };
};

const explain = async ({ images, shape, target }) => {
  const before = performance.now();
  const outputs = await session.run({
    images: new ort.Tensor("float32", images, [1, ...shape]),
    targets: new ort.Tensor("int64", BigInt64Array.of(BigInt(target)), [1]),
  });
  const maps = outputs.maps;
  return {
    logits: Float32Array.from(outputs.logits.data),
    target: Number(outputs.explained.data[0]),
    map: Float32Array.from(maps.data),
    size: maps.dims.slice(-2),
    milliseconds: performance.now() - before,
  };
};

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ id: data.id, ...(await (session ? explain : start)(data)) });
  } catch (error) {
    // The runtime throws numbers where memory ends.
    self.postMessage({ id: data.id, error: error?.message ?? String(error) });
  }
};
