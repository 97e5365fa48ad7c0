// Sound in, probabilities over time out. Windows are cut and averaged as `embedkit predict --no-vad` does.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LABELS = ["anger", "happiness", "neutral", "sadness"];
const AGAIN = "write the page again with embedkit stitch-export --web";
const LONGEST = 7200; // s: a browser holds a decoded recording in memory as a whole

let about; // model.json: the file's name, its labels, and the runtime's numbers
let job = 0; // counts recordings; what belongs to an earlier one is dropped
let microphone = null;

// ---------------------------------------------------------------- the exported file, in its worker

const worker = new Worker("worker.js");
const waiting = new Map();
let asked = 0;

function ask(task, what, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, task, ...what }, transfer);
  });
}

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(result);
  else reject(new Error(error));
};
worker.onerror = (event) => fail(`onnxruntime-web cannot start (${event.message ?? "no message"})`);

// ---------------------------------------------------------------- windows

/** Cuts sound at `rate` into windows of 8 s; the last is kept if it has 1 s or is alone. */
class Windows {
  constructor(rate) {
    this.scale = rate / about.rate;
    this.rate = rate;
    this.held = new Float32Array(Math.round(about.window * this.scale));
    this.size = 0;
    this.count = 0;
  }

  push(samples) {
    const full = [];
    for (let at = 0; at < samples.length;) {
      const part = samples.subarray(at, at + this.held.length - this.size);
      this.held.set(part, this.size);
      this.size += part.length;
      at += part.length;
      if (this.size === this.held.length) full.push(this.cut());
    }
    return full;
  }

  end() {
    return this.size >= about.last * this.scale || (this.size && !this.count) ? [this.cut()] : [];
  }

  cut() {
    const start = (this.count++ * this.held.length) / this.rate;
    const window = { samples: this.held.slice(0, this.size), start, end: start + this.size / this.rate };
    this.size = 0;
    return window;
  }
}

const silent = (samples) => samples.every((x) => Math.abs(x) < about.silent);

/** Samples at another rate as samples at 16 kHz, by the browser's own resampler. */
async function resampled(samples, rate) {
  if (rate === about.rate) return samples;
  const context = new OfflineAudioContext(1, Math.round((samples.length * about.rate) / rate), about.rate);
  const source = context.createBufferSource();
  source.buffer = new AudioBuffer({ length: samples.length, numberOfChannels: 1, sampleRate: rate });
  source.buffer.copyToChannel(samples, 0);
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

/** A window's probabilities and the time it took; null for a silent one. */
async function judged(window, rate) {
  const samples = await resampled(window.samples, rate);
  if (samples.length < about.shortest) throw new Error(`too short: ${samples.length} samples at 16 kHz`);
  if (silent(samples)) return null;
  const { probabilities, ms } = await ask("judge", { samples });
  return { start: window.start, end: window.end, probabilities, ms };
}

// ---------------------------------------------------------------- a file

async function mono(file) {
  const context = new OfflineAudioContext(1, 1, about.rate); // decodes to its own rate
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const sum = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++) {
    sound.getChannelData(c).forEach((x, i) => { sum[i] += x / sound.numberOfChannels; });
  }
  return sum;
}

async function readFile(file) {
  const mine = begin(file.name);
  let samples;
  try {
    samples = await mono(file);
  } catch {
    if (mine === job) fail(`“${file.name}” is no sound that this browser can decode; WAV, FLAC and MP3 are.`);
    return;
  }
  if (mine !== job) return;
  if (samples.length > LONGEST * about.rate) return fail("Longer than two hours: use embedkit predict.");
  const cut = new Windows(about.rate);
  const windows = [...cut.push(samples), ...cut.end()];
  const said = [];
  try {
    for (const [i, window] of windows.entries()) {
      tell(`Window ${i + 1} of ${windows.length} …`, i / windows.length);
      const result = await judged(window, about.rate);
      if (mine !== job) return;
      if (result) show(file.name, said, result, samples.length / about.rate);
    }
  } catch (error) {
    if (mine === job) fail(`“${file.name}” cannot be judged (${error.message}).`);
    return;
  }
  finish(file.name, said);
}

// ---------------------------------------------------------------- the microphone

async function record() {
  const mine = begin("Your recording");
  tell("Waiting for the microphone …");
  let stream;
  try {
    const raw = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    stream = await navigator.mediaDevices.getUserMedia({ audio: raw });
  } catch (error) {
    if (mine === job) fail(microphoneError(error));
    return;
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule("recorder.js");
  if (mine !== job) return close(stream, context);
  const node = new AudioWorkletNode(context, "recorder");
  const cut = new Windows(context.sampleRate);
  const said = [];
  let heard = 0;
  let queue = Promise.resolve();
  const take = (windows) => {
    for (const window of windows) {
      queue = queue.then(async () => {
        const result = mine === job ? await judged(window, context.sampleRate) : null;
        if (result && mine === job) show("Your recording", said, result, heard);
      });
    }
    queue.catch((error) => { if (mine === job) { stop(); fail(`It cannot be judged (${error.message}).`); } });
  };
  const stop = () => {
    close(stream, context);
    microphone = null;
    document.body.dataset.state = "working";
    $("record-text").textContent = "Record";
  };
  node.port.onmessage = ({ data }) => {
    if (microphone?.mine !== mine) return;
    const before = Math.floor(heard);
    heard += data.length / context.sampleRate;
    if (Math.floor(heard) !== before) {
      $("status").textContent = `Recording, ${clock(heard)}. Every 8 seconds are judged.`;
      $("progress").value = (heard % 8) / 8;
    }
    take(cut.push(data));
  };
  context.createMediaStreamSource(stream).connect(node);
  microphone = {
    mine,
    async stop() {
      stop();
      tell("Judging the rest …", 0.9);
      take(cut.end());
      await queue.catch(() => {});
      if (mine === job && document.body.dataset.state === "working") finish("Your recording", said);
    },
    drop: stop,
  };
  document.body.dataset.state = "recording";
  $("record-text").textContent = "Stop";
  tell("Recording. Every 8 seconds are judged.", 0);
  $("status").setAttribute("aria-live", "off"); // the seconds are for the eye
}

function close(stream, context) {
  stream.getTracks().forEach((track) => track.stop());
  context.close();
  $("status").setAttribute("aria-live", "polite");
}

function microphoneError(error) {
  if (!navigator.mediaDevices) return "A microphone needs https or localhost; a recording can still be chosen.";
  if (error.name === "NotAllowedError") return "The browser was not allowed to use the microphone.";
  return `No microphone can be used (${error.message}).`;
}

// ---------------------------------------------------------------- what is shown

function begin(name) {
  microphone?.drop();
  document.body.dataset.state = "working";
  document.title = `${name} · embedkit`;
  $("error").hidden = true;
  $("result").hidden = true;
  $("windows").replaceChildren();
  tell(`Reading ${name} …`, 0);
  return ++job;
}

function tell(text, progress) {
  $("status").textContent = text;
  if (progress === undefined) $("progress").removeAttribute("value");
  else $("progress").value = progress;
}

function fail(text) {
  document.body.dataset.state = about ? "ready" : "failed";
  $("status").textContent = "";
  $("error").textContent = text;
  $("error").hidden = false;
}

function finish(name, said) {
  document.body.dataset.state = "ready";
  tell(said.length ? "Done." : `${name}: silent, there is nothing to judge.`, 1);
}

function show(name, said, result, seconds) {
  said.push(result);
  const mean = average(said);
  const best = likeliest(mean);
  $("verdict").replaceChildren(swatch(best), ` ${about.labels[best]}, ${mean[best].toFixed(2)}`);
  const took = said.reduce((sum, w) => sum + w.ms, 0) / 1000;
  const heard = said.reduce((sum, w) => sum + w.end - w.start, 0);
  $("summary").textContent = `${name}: the mean of ${said.length} window${said.length > 1 ? "s" : ""}, `
    + `${heard.toFixed(1)} s of sound judged in ${took.toFixed(1)} s`;
  draw(said, mean, Math.max(seconds, result.end));
  $("windows").append(row(result));
  $("result").hidden = false;
}

/** The mean of the windows' probabilities by their seconds. */
function average(said) {
  const seconds = said.reduce((sum, w) => sum + w.end - w.start, 0);
  return about.labels.map((_, i) => said.reduce((sum, w) => sum + w.probabilities[i] * (w.end - w.start), 0) / seconds);
}

const likeliest = (shares) => shares.indexOf(Math.max(...shares));

function draw(said, mean, seconds) {
  const rows = about.labels.flatMap((name, i) => {
    const label = element("span", { class: "name" }, swatch(i), name);
    const chart = svg("svg", { viewBox: `0 0 ${seconds} 1`, preserveAspectRatio: "none", role: "img",
      "aria-label": `${name} over time, ${mean[i].toFixed(2)} on average; the table has each window` });
    if (said.length > 150) chart.setAttribute("class", "many");
    chart.append(...said.map((w) => bar(name, i, w)));
    return [label, chart, element("span", { class: "mean" }, mean[i].toFixed(2))];
  });
  $("chart").replaceChildren(...rows, ticks(seconds));
}

function bar(name, i, window) {
  const p = window.probabilities[i];
  const kind = likeliest(window.probabilities) === i ? `${name} likeliest` : name;
  const rect = svg("rect", { class: kind, x: window.start, width: window.end - window.start, y: 1 - p, height: p });
  const title = svg("title", {});
  title.textContent = `${clock(window.start)} to ${clock(window.end)}: ${name} ${p.toFixed(3)}`;
  rect.append(title);
  return rect;
}

/** A time axis with marks at round times: at most eight, four on a phone. */
function ticks(seconds) {
  const most = innerWidth < 560 ? 4 : 8;
  const step = [1, 2, 4, 8, 16, 30, 60, 120, 300, 600, 1200, 1800].find((s) => seconds / s <= most) ?? 3600;
  const axis = element("div", { id: "ticks", "aria-hidden": "true" });
  for (let at = 0; at <= seconds * 0.97; at += step) {
    const mark = element("span", {}, clock(at));
    mark.style.left = `${(100 * at) / seconds}%`;
    axis.append(mark);
  }
  return axis;
}

function row(window) {
  const best = likeliest(window.probabilities);
  const number = (value, text) => element("td", {}, element("data", { value }, text));
  return element("tr", {},
    element("th", { scope: "row" }, `${clock(window.start)} – ${clock(window.end)}`),
    element("td", {}, swatch(best), about.labels[best]),
    ...window.probabilities.map((p) => number(p, p.toFixed(3))),
    number(window.ms, `${Math.round(window.ms)} ms`));
}

function swatch(i) {
  return element("span", { class: `swatch ${about.labels[i]}`, "aria-hidden": "true" });
}

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** 75.5 s as 1:15.5 */
function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const rest = (tenths % 600) / 10;
  return `${Math.floor(tenths / 600)}:${rest < 10 ? "0" : ""}${rest % 1 ? rest.toFixed(1) : rest}`;
}

// ---------------------------------------------------------------- begin

async function load() {
  about = await described();
  const size = (about.bytes / 1e6).toFixed(1);
  const { study, head, profile, encoder, weights } = about.about;
  const parts = [`${size} MB`, study && `study ${study}`, head && `head ${head}`, encoder, profile && `profile ${profile}`];
  $("model").textContent = `${about.model} · ${parts.filter(Boolean).join(" · ")}`;
  if (weights === "random") {
    $("model").append(element("strong", {}, " · weights: random, so its answers mean nothing"));
  }
  const heads = ["from – to", "likeliest", ...about.labels, "took"];
  $("columns").replaceChildren(...heads.map((text) => element("th", { scope: "col" }, text)));
  tell(`Loading the model, ${size} MB …`);
  const model = await (await fetched(encodeURIComponent(about.model))).arrayBuffer();
  await verify(model);
  const { threads } = await ask("load", { model }, [model]);
  $("threads").textContent = threads > 1 ? `${threads} threads` : "one thread";
  $("record").disabled = $("file").disabled = false;
  document.body.dataset.state = "ready";
  tell("Ready.", 1);
}

async function fetched(name) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}; is the page's folder served whole?`);
  return answer;
}

async function described() {
  const answer = await fetched("model.json");
  const said = await answer.json().catch(() => ({}));
  if (LABELS.some((label, i) => said.labels?.[i] !== label) || !said.sha256) {
    throw new Error(`model.json is damaged or not embedkit's; ${AGAIN}`);
  }
  return said;
}

/** Refuses a file that is not, byte for byte, the one that the page was written for. */
async function verify(model) {
  if (model.byteLength !== about.bytes) {
    throw new Error(`${about.model} is damaged, ${model.byteLength} bytes of ${about.bytes}; ${AGAIN}`);
  }
  if (!crypto.subtle) { // browsers keep it, as the microphone, for https and localhost
    $("model").append(" · its SHA-256 is not checked, for this address is neither https nor localhost");
    return;
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", model));
  if (Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") !== about.sha256) {
    throw new Error(`${about.model} is damaged, its SHA-256 is not the one that model.json says; ${AGAIN}`);
  }
}

$("record").addEventListener("click", () => (microphone ? microphone.stop() : record()));
$("file").addEventListener("change", ({ target }) => {
  if (target.files.length) readFile(target.files[0]);
  target.value = ""; // the same file can be chosen again
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file && !$("file").disabled) readFile(file);
});

load().catch((error) => {
  about = undefined;
  fail(`The page cannot start: ${error.message}.`);
});
