// Hands the microphone's samples (mean of the channels) to the page, block by block.
class Recorder extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) {
      const mono = new Float32Array(channels[0].length);
      for (const channel of channels) channel.forEach((x, i) => { mono[i] += x / channels.length; });
      this.port.postMessage(mono, [mono.buffer]);
    }
    return true;
  }
}
registerProcessor("recorder", Recorder);
