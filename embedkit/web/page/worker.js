// The exported file in onnxruntime-web, off the page's own thread, so that the page stays alive while it computes.
"use strict";
importScripts("ort.wasm.min.js");

ort.env.wasm.wasmPaths = new URL("./", self.location.href).href;
// WebAssembly's threads need a server that isolates the page, as `embedkit serve` does.
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;

let session;

const tasks = {
  async load({ model }) {
    session = await ort.InferenceSession.create(new Uint8Array(model));
    return { threads: ort.env.wasm.numThreads };
  },

  async judge({ samples }) {
    const start = performance.now();
    const feed = {
      signal: new ort.Tensor("float32", samples, [1, samples.length]),
      lengths: new ort.Tensor("int64", BigInt64Array.of(BigInt(samples.length)), [1]),
    };
    const { probabilities } = await session.run(feed, ["probabilities"]);
    return { probabilities: Array.from(probabilities.data), ms: performance.now() - start };
  },
};

self.onmessage = async ({ data: { id, task, ...what } }) => {
  try {
    self.postMessage({ id, result: await tasks[task](what) });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
