/**
 * Where a viewer's pictures and maps come from: a server's routes, the page itself, or the Python of a notebook.
 *
 * A source answers the same questions everywhere; what it sends is checked by who asked.
 */
import { sliceBytes } from './slices.js'

/**
 * What somebody looks at. `layers` and `steps` are numbers of the model.
 * @typedef {{stream: number, kind: string, layers: number[], steps: number[], head: number | null}} Wanted
 */

/**
 * @typedef {{layers: number[], entities: string[], colours: [number, number, number][], heads: number[],
 *   points: Record<string, [number, number, number]>, counts: number[]}} Held maps of one kind
 * @typedef {{prompt: {text: string, names: string[]}[], phrases: {name: string, text: string, role: string}[],
 *   grid: [number, number, number], token: [number, number], frame: [number, number], starts: number[],
 *   size: [number, number], box: [number, number, number, number],
 *   pictures: [number, number][], maps: Record<string, Held>,
 *   masks: {name: string, colour: [number, number, number], bits: string}[]}} Stream one prompt and sample
 * @typedef {{version: number, label: string, backbone: string, branch: string, notes: string[],
 *   steps: {index: number, sigma: number, calls: number}[], experts: Record<string, number[]>, streams: Stream[],
 *   film: {frames: number, width: number, height: number, fps: number}, colormaps: Record<string, string>}} Manifest
 */

/**
 * The scores of one entity, as [L, St]: see `viewer/scores.py`.
 * @typedef {{values: string, weights: string, chance: number | null, aligned: boolean}} Scores
 */

/**
 * What was read off a capture: see `viewer/reading.py`. `findings` have numbers of token frames and of steps.
 * @typedef {{kind: string, layers: number[], masks: {name: string, colour: [number, number, number], bits: string}[],
 *   points: {name: string, colour: [number, number, number], xy: [number, number][], seen: boolean[]}[], ends: number[],
 *   findings: {text: string, frames: number[], steps: number[]}[], lines: string[]}} Reading
 */

/**
 * @typedef {object} Source
 * @property {() => Promise<Manifest>} manifest
 * @property {(wanted: Wanted, entities: number[]) => Promise<ArrayBuffer>} maps slices one behind the other
 * @property {(stream: number, kind: string, entity: number, head: number | null, sinkless?: boolean)
 *   => Promise<Scores>} scores
 * @property {(wanted: Wanted, sinkless?: boolean) => Promise<Reading>} reading of these layers and steps, or of those
 *   that a page carries
 * @property {(number: number) => Promise<Blob>} frame
 * @property {(() => Promise<Blob>) | null} page the viewer as a file, where somebody can make one
 */

/**
 * One answer: the body, and its type.
 * @typedef {{data: ArrayBuffer, type: string}} Reply
 */

/**
 * A source that asks somebody else, with a word and texts.
 * @param {(what: string, query: Record<string, string>) => Promise<Reply>} ask throws with a sentence for people
 * @param {boolean} [pages] whether it makes pages, too
 * @returns {Source}
 */
export function askingSource(ask, pages = false) {
  /** @param {Reply} reply */
  const json = (reply) => JSON.parse(new TextDecoder().decode(reply.data))
  return {
    manifest: async () => json(await ask('manifest', {})),
    maps: async (wanted, entities) => (await ask('map', { ...queryOf(wanted), entities: entities.join(',') })).data,
    scores: async (stream, kind, entity, head, sinkless = false) =>
      json(await ask('scores', without(withHead({ stream: `${stream}`, kind, entity: `${entity}` }, head), sinkless))),
    reading: async (wanted, sinkless = false) => json(await ask('reading', without(queryOf(wanted), sinkless))),
    frame: async (number) => blobOf(await ask('frame', { number: `${number}` })),
    page: pages ? async () => blobOf(await ask('page', {})) : null
  }
}

/** @param {Reply} reply */
function blobOf({ data, type }) {
  return new Blob([data], { type })
}

/**
 * @param {Wanted} wanted
 * @returns {Record<string, string>}
 */
function queryOf({ stream, kind, layers, steps, head }) {
  return withHead({ stream: `${stream}`, kind, layers: runsOf(layers), steps: runsOf(steps) }, head)
}

/**
 * @param {Record<string, string>} query
 * @param {number | null} head
 * @returns {Record<string, string>}
 */
function withHead(query, head) {
  return head === null ? query : { ...query, head: `${head}` }
}

/**
 * @param {Record<string, string>} query
 * @param {boolean} sinkless whether attention sinks are left out
 * @returns {Record<string, string>}
 */
function without(query, sinkless) {
  return sinkless ? { ...query, sinks: 'out' } : query
}

/** @param {number[]} numbers */
function runsOf(numbers) {
  return numbers.length > 1 && numbers[numbers.length - 1] - numbers[0] === numbers.length - 1
    ? `${numbers[0]}-${numbers[numbers.length - 1]}`
    : numbers.join(',')
}

/**
 * What a page carries: see `viewer/embedding.py`.
 * @typedef {{stream: number, kind: string, layers: number[][], steps: number[][], begin: number,
 *   scores: Scores[]}} Entry
 * @typedef {{manifest: Manifest, film: string[], maps: Entry[], readings: Reading[], cells: string}} Embedded
 */

/**
 * A source that has everything itself.
 * @param {Embedded} data
 * @returns {Source}
 */
export function pageSource(data) {
  /** @type {Promise<ArrayBuffer> | null} */
  let cells = null
  const blob = () => {
    cells ??= unzipped(bytesOf(data.cells))
    return cells
  }
  /**
   * @param {number} stream
   * @param {string} kind
   */
  const entryOf = (stream, kind) => {
    const found = data.maps.find((entry) => entry.stream === stream && entry.kind === kind)
    if (!found) throw new Error(`this page holds no ${kind} maps`)
    return found
  }
  return {
    manifest: async () => data.manifest,
    maps: async (wanted, entities) => {
      const entry = entryOf(wanted.stream, wanted.kind)
      const stream = data.manifest.streams[wanted.stream]
      const held = stream.maps[wanted.kind]
      const places = {
        layers: placesOf(wanted.layers, held.layers),
        steps: placesOf(
          wanted.steps,
          data.manifest.steps.map((step) => step.index)
        )
      }
      return meanCells(await blob(), entry, stream.grid, entities, places)
    },
    scores: async (stream, kind, entity) => entryOf(stream, kind).scores[entity],
    reading: async ({ stream, kind }) => data.readings[data.maps.indexOf(entryOf(stream, kind))],
    frame: async (number) => new Blob([bytesOf(data.film[number])], { type: 'image/jpeg' }),
    page: null
  }
}

/**
 * @param {number[]} numbers
 * @param {number[]} existing
 */
function placesOf(numbers, existing) {
  return new Set(numbers.map((number) => existing.indexOf(number)))
}

/**
 * Slices that are the means over cells of a blob: steps count as often as they were called, each layer alike.
 * @param {ArrayBuffer} blob
 * @param {Pick<Entry, 'layers' | 'steps' | 'begin'>} entry
 * @param {[number, number, number]} shape
 * @param {number[]} entities
 * @param {{layers: Set<number>, steps: Set<number>}} places
 * @returns {ArrayBuffer}
 */
export function meanCells(blob, entry, shape, entities, places) {
  const rows = entry.layers.filter((group) => group.some((place) => places.layers.has(place)))
  const columns = entry.steps.filter((group) => group.some((place) => places.steps.has(place)))
  const size = sliceBytes(shape)
  const made = new Uint8Array(size * entities.length)
  for (const [i, entity] of entities.entries()) {
    const mean = meanOfCells(blob, entry, shape, entity, rows, columns)
    writeSlice(made, i * size, mean.values, mean.seen)
  }
  return made.buffer
}

/**
 * @param {ArrayBuffer} blob
 * @param {Pick<Entry, 'layers' | 'steps' | 'begin'>} entry
 * @param {[number, number, number]} shape
 * @param {number} entity
 * @param {number[][]} rows
 * @param {number[][]} columns
 */
function meanOfCells(blob, entry, shape, entity, rows, columns) {
  const [frames, height, width] = shape
  const area = height * width
  const bytes = 4 + 2 * frames + frames * area
  const view = new DataView(blob)
  const values = new Float32Array(frames * area)
  const seen = new Float32Array(frames)
  for (const row of rows) {
    const l = entry.layers.indexOf(row)
    const at = columns.map((column) => {
      const place = (entity * entry.layers.length + l) * entry.steps.length + entry.steps.indexOf(column)
      return entry.begin + place * bytes
    })
    for (let f = 0; f < frames; f++) {
      const calls = at.map((begin) => view.getUint16(begin + 4 + 2 * f, true))
      const total = calls.reduce((sum, count) => sum + count, 0)
      if (!total) continue
      seen[f] += row.length
      for (const [k, begin] of at.entries()) {
        if (!calls[k]) continue
        const factor = (row.length * view.getFloat32(begin, true) * calls[k]) / total / 255 ** 2
        const codes = new Uint8Array(blob, begin + 4 + 2 * frames + f * area, area)
        for (let i = 0; i < area; i++) values[f * area + i] += factor * codes[i] * codes[i]
      }
    }
  }
  for (let i = 0; i < values.length; i++) values[i] /= seen[Math.floor(i / area)] || 1
  return { values, seen }
}

/**
 * @param {Uint8Array} made
 * @param {number} begin
 * @param {Float32Array} values
 * @param {Float32Array} seen
 */
function writeSlice(made, begin, values, seen) {
  const peak = values.reduce((most, value) => Math.max(most, value), 0)
  new DataView(made.buffer).setFloat32(begin, peak, true)
  for (let f = 0; f < seen.length; f++) made[begin + 4 + f] = seen[f] ? 1 : 0
  const first = begin + 4 + seen.length
  for (let i = 0; i < values.length; i++) made[first + i] = peak ? Math.round(255 * Math.sqrt(values[i] / peak)) : 0
}

/**
 * A source behind a notebook's messages.
 * @param {WidgetModel} model
 * @param {number} exhibit
 * @returns {Source}
 */
export function modelSource(model, exhibit) {
  let last = 0
  return askingSource(
    (what, query) =>
      new Promise((resolve, reject) => {
        const id = `${exhibit}.${++last}`
        /** @type {(message: ModelMessage, buffers: DataView[]) => void} */
        const heard = (message, buffers) => {
          if (message?.id !== id) return
          model.off('msg:custom', heard)
          const part = buffers[0]
          const data = part.buffer.slice(part.byteOffset, part.byteOffset + part.byteLength)
          if (message.status === 200) resolve({ data: /** @type {ArrayBuffer} */ (data), type: message.type })
          else reject(new Error(errorOf(new TextDecoder().decode(/** @type {ArrayBuffer} */ (data)))))
        }
        model.on('msg:custom', heard)
        model.send({ id, exhibit, what, query })
      }),
    true
  )
}

/**
 * What anywidget hands to a module that it renders.
 * @typedef {{id: string, status: number, type: string}} ModelMessage
 * @typedef {object} WidgetModel
 * @property {(name: string) => any} get
 * @property {(name: string, value: unknown) => void} set
 * @property {() => void} save_changes
 * @property {(message: object) => void} send
 * @property {(event: string, heard: (message: ModelMessage, buffers: DataView[]) => void) => void} on
 * @property {(event: string, heard: (message: ModelMessage, buffers: DataView[]) => void) => void} off
 */

/**
 * The sentence in the body of an answer that says why there is none.
 * @param {string} text
 * @returns {string}
 */
export function errorOf(text) {
  try {
    const told = JSON.parse(text)
    return typeof told?.error === 'string' ? told.error : text.slice(0, 200)
  } catch {
    return text.slice(0, 200)
  }
}

/**
 * @param {string} text base64
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
}

/** @param {Uint8Array<ArrayBuffer>} zipped */
function unzipped(zipped) {
  return new Response(new Blob([zipped]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer()
}
