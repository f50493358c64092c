// Unpacks a sample of a trace, and what follows from it: what was written when. Nothing here touches the document.
window.denoscopeTrace = (() => {
  "use strict";
  const State = { PROMPT: 0, MASKED: 1, COMMITTED: 2, REVISED: 3, REMASKED: 4, PADDING: 5 };
  const STATES = ["given", "masked, never written", "written", "written, changed before", "masked again", "beyond the end"];
  const NAN = 255;

  async function inflate(text) {
    const packed = atob(text);
    const bytes = new Uint8Array(packed.length);
    for (let index = 0; index < packed.length; index += 1) bytes[index] = packed.charCodeAt(index);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  /* Numbers in 8 bits, over one range or over one for each feature; `at(index)` is the number, NaN where there is none. */
  async function numbers({ low, high, data }) {
    const levels = new Uint8Array(await inflate(data));
    const scales = high.map((end, feature) => (end - low[feature]) / 254);
    const at = (index) => (levels[index] === NAN ? NaN : low[index % low.length] + scales[index % low.length] * levels[index]);
    return { low, high, levels, at };
  }

  async function unpack(sample) {
    const tokens = async (text) => new (sample.bytes === 2 ? Uint16Array : Uint32Array)(await inflate(text));
    const channels = sample.channels.map(async (channel) => ({ ...channel, values: await numbers(channel.values) }));
    const { steps, positions, ranks } = sample;
    const run = {
      steps, positions, ranks,
      token: await tokens(sample.tokens),
      state: new Uint8Array(await inflate(sample.states)),
      proposal: await tokens(sample.proposals),
      topToken: await tokens(sample.topTokens),
      topProbability: await numbers(sample.topProbabilities),
      commit: new Int32Array(await inflate(sample.commit)),
      confidence: await numbers(sample.confidence),
      margin: await numbers(sample.margin),
      entropy: await numbers(sample.entropy),
      channels: await Promise.all(channels),
    };
    return Object.assign(run, history(run));
  }

  const isMasked = (state) => state === State.MASKED || state === State.REMASKED;
  const isWritten = (state) => state === State.COMMITTED || state === State.REVISED;

  /* `since`: the call that wrote the token that stands there; `counts` a step; and where tokens were changed or taken back. */
  function history({ steps, positions, token, state }) {
    const since = new Int32Array(token.length);
    const last = new Uint32Array(positions);
    const counts = [];
    const changed = [];
    const taken = [];
    for (let step = 0; step <= steps; step += 1) {
      const count = { written: 0, fresh: 0, changed: 0, taken: 0, left: 0 };
      for (let position = 0; position < positions; position += 1) {
        const index = step * positions + position;
        const before = index - positions;
        since[index] = step > 0 ? since[before] : 0;
        if (isMasked(state[index])) {
          count.left += 1;
          if (step > 0 && !isMasked(state[before])) { count.taken += 1; taken.push(index); }
        } else if (isWritten(state[index])) {
          count.written += 1;
          if (step > 0 && (isMasked(state[before]) || token[before] !== token[index])) {
            count.fresh += 1;
            since[index] = step;
            if (last[position] && last[position] !== token[index]) { count.changed += 1; changed.push(index); }
          }
          last[position] = token[index];
        }
      }
      counts.push(count);
    }
    return { since, counts, changed, taken };
  }

  /* What a colour choice shows: `at(index)`, its range, and whether there is any. Choices: a name, "scalar:NAME", "vector:NAME" with
     the label of a feature. */
  function quantity(run, choice, feature) {
    if (choice === "state") return { at: (index) => run.state[index], low: 0, high: 5, known: true };
    if (choice === "commit") {
      const at = (index) => {
        const commit = run.commit[index % run.positions];
        return commit > 0 && commit <= Math.floor(index / run.positions) ? commit : NaN;
      };
      return { at, low: 0, high: run.steps, known: true };
    }
    if (choice in run && run[choice].levels) return { at: run[choice].at, low: run[choice].low[0], high: run[choice].high[0], known: true };
    const [kind, ...rest] = choice.split(":");
    const name = rest.join(":");
    const channel = run.channels.find((one) => one.name === name && (kind === "vector") === one.features.length > 0);
    const which = channel && kind === "vector" ? channel.features.indexOf(feature) : 0;
    if (!channel || which < 0) return { at: () => NaN, low: Infinity, high: -Infinity, known: false };
    const { low, high, at } = channel.values;
    return { at: (index) => at(index * low.length + which), low: low[which], high: high[which], known: true };
  }

  /* A token's text with its blanks made visible. */
  const visible = (text) => text.replace(/^ +| +$/g, (blanks) => "␣".repeat(blanks.length)).replaceAll("\n", "↵").replaceAll("\t", "⇥");
  const place = (layout, position) => (layout === "board" ? window.denoscope.name(position) : `position ${position}`);

  /* How sure, in per cent; 8 bits do not tell 99.8 % from certainty, so neither does this. */
  function percent(share) {
    if (Number.isNaN(share)) return "–";
    if (share < 0.01) return "< 1 %";
    return share > 0.99 ? "> 99 %" : `${Math.round(100 * share)} %`;
  }

  return { State, STATES, isMasked, isWritten, percent, place, quantity, unpack, visible };
})();
