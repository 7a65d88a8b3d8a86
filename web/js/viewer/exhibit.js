/**
 * One capture in the page: what it holds, and what of it has come already. Memory is bounded: maps and pictures that were
 * not looked at for the longest are asked for again.
 */
import { slicesOf } from './slices.js'
import { bytesOf } from './source.js'

/** @typedef {import('./source.js').Source} Source */
/** @typedef {import('./source.js').Manifest} Manifest */
/** @typedef {import('./source.js').Wanted} Wanted */
/** @typedef {import('./source.js').Reading} Reading */
/** @typedef {import('./slices.js').Slice} Slice */

/**
 * The scores of one entity for the chart: `values` [L, St] in [0, 1], NaN where nothing was recorded.
 * @typedef {{values: Float32Array, weights: Float32Array, chance: number | null, aligned: boolean}} Chart
 */

const MOST_MAPS = 16 * 2 ** 20 // bytes of maps that are kept
const MOST_FILES = 24 * 2 ** 20 // bytes of pictures as files
const MOST_BITMAPS = 8 // pictures as pixels
const MOST_READINGS = 16
const LEVELS = 65534
const ABSENT = 65535

export class Exhibit {
  /**
   * @param {Source} source
   * @param {Manifest} manifest
   */
  constructor(source, manifest) {
    this.source = source
    this.manifest = manifest
    /** @type {Kept<Slice>} */
    this.maps = new Kept(MOST_MAPS, (slice) => slice.codes.length)
    /** @type {Kept<Blob>} */
    this.files = new Kept(MOST_FILES, (file) => file.size)
    /** @type {Kept<ImageBitmap>} */
    this.bitmaps = new Kept(
      MOST_BITMAPS,
      () => 1,
      (bitmap) => bitmap.close()
    )
    this.last = ''
    /** @type {Map<string, Promise<Chart>>} */
    this.charts = new Map()
    /** @type {Map<string, Uint8Array>} */
    this.masks = new Map()
    /** @type {Kept<Reading>} */
    this.readings = new Kept(MOST_READINGS, () => 1)
    /** Whether attention sinks are left out of scores and readings. */
    this.sinkless = false
  }

  /**
   * @param {Source} source
   * @returns {Promise<Exhibit>}
   */
  static async open(source) {
    const manifest = await source.manifest()
    if (manifest?.version !== 1) throw new Error('this capture is of another version of the pack: load the page again')
    return new Exhibit(source, manifest)
  }

  /** The numbers of all steps. */
  get steps() {
    return this.manifest.steps.map((step) => step.index)
  }

  /**
   * A map that is here already.
   * @param {Wanted} wanted
   * @param {number} entity
   * @returns {Slice | undefined}
   */
  map(wanted, entity) {
    return this.maps.get(keyOf(wanted, entity))
  }

  /**
   * Fetches the maps of these entities that are not here yet, all with one question.
   * @param {Wanted} wanted
   * @param {number[]} entities
   */
  async fetchMaps(wanted, entities) {
    const missing = entities.filter((entity) => !this.maps.get(keyOf(wanted, entity)))
    if (!missing.length) return
    const data = await this.source.maps(wanted, missing)
    const shape = this.manifest.streams[wanted.stream].grid
    for (const [i, slice] of slicesOf(data, missing.length, shape).entries()) {
      this.maps.put(keyOf(wanted, missing[i]), slice)
    }
  }

  /**
   * @param {number} stream
   * @param {string} kind
   * @param {number} entity
   * @param {number | null} head
   * @returns {Promise<Chart>}
   */
  chart(stream, kind, entity, head) {
    const key = `${stream} ${kind} ${entity} ${head}`
    let found = this.charts.get(key)
    if (!found) {
      found = this.source.scores(stream, kind, entity, head, this.sinkless).then(chartOf)
      found.catch(() => this.charts.delete(key))
      this.charts.set(key, found)
    }
    return found
  }

  /**
   * A picture of the clip as pixels.
   * @param {number} number
   * @returns {Promise<ImageBitmap>}
   */
  async bitmap(number) {
    const key = `${number}`
    const kept = this.bitmaps.get(key)
    if (kept) return kept
    const file = this.files.get(key) ?? (await this.source.frame(number))
    this.files.put(key, file)
    const made = await createImageBitmap(file)
    this.bitmaps.put(key, made)
    this.last = key
    return made
  }

  /**
   * A picture that is here as pixels.
   * @param {number} number
   */
  readyBitmap(number) {
    return this.bitmaps.get(`${number}`)
  }

  /** The picture that came last, for as long as the next one is on its way. */
  get lastBitmap() {
    return this.bitmaps.get(this.last)
  }

  /**
   * Which tokens of a token frame belong to an instance.
   * @param {number} stream
   * @param {number} instance its place among the masks
   * @param {number} frame
   * @returns {Uint8Array} 1 for each token of the mask
   */
  mask(stream, instance, frame) {
    const { grid, masks } = this.manifest.streams[stream]
    const key = `${stream} ${instance}`
    let bits = this.masks.get(key)
    if (!bits) {
      bits = bytesOf(masks[instance].bits)
      this.masks.set(key, bits)
    }
    return tokensOf(bits, grid, frame)
  }

  /**
   * What was read off these layers and steps, where it is here already.
   * @param {Wanted} wanted
   * @returns {Reading | undefined}
   */
  reading(wanted) {
    return this.readings.get(keyOf(wanted, 0))
  }

  /** @param {Wanted} wanted */
  async fetchReading(wanted) {
    if (this.reading(wanted)) return
    const { sinkless } = this
    const found = await this.source.reading(wanted, sinkless)
    if (sinkless === this.sinkless) this.readings.put(keyOf(wanted, 0), found)
  }

  /** @param {boolean} out whether attention sinks are left out of scores and readings from now on */
  leaveSinksOut(out) {
    this.sinkless = out
    this.charts.clear()
    this.readings.clear()
  }

  /** Lets go of what the browser holds for it. */
  close() {
    this.bitmaps.clear()
    this.maps.clear()
    this.files.clear()
  }
}

/**
 * The tokens of one frame out of the bits of a clip.
 * @param {Uint8Array} bits of (frames, rows, columns), most significant first
 * @param {[number, number, number]} grid
 * @param {number} frame
 * @returns {Uint8Array} 1 for each token of the mask
 */
export function tokensOf(bits, [, rows, columns], frame) {
  const area = rows * columns
  return Uint8Array.from({ length: area }, (_, i) => {
    const at = frame * area + i
    return (bits[at >> 3] >> (7 - (at & 7))) & 1
  })
}

/**
 * @param {Wanted} wanted
 * @param {number} entity
 */
function keyOf({ stream, kind, layers, steps, head }, entity) {
  return [stream, kind, entity, head, layers.join(','), steps.join(',')].join(' ')
}

/**
 * @param {import('./source.js').Scores} scores
 * @returns {Chart}
 */
export function chartOf(scores) {
  const codes = numbersOf(scores.values)
  return {
    values: Float32Array.from(codes, (code) => (code === ABSENT ? Number.NaN : code / LEVELS)),
    weights: Float32Array.from(numbersOf(scores.weights)),
    chance: scores.chance,
    aligned: scores.aligned
  }
}

/** @param {string} text little-endian uint16 as base64 */
function numbersOf(text) {
  const bytes = bytesOf(text)
  const view = new DataView(bytes.buffer)
  return Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true))
}

/**
 * Things by name within a bound; those that were not asked for the longest make room.
 * @template T
 */
export class Kept {
  /**
   * @param {number} most
   * @param {(thing: T) => number} size
   * @param {(thing: T) => void} [drop] what to do with one that makes room
   */
  constructor(most, size, drop = () => {}) {
    this.most = most
    this.size = size
    this.drop = drop
    this.used = 0
    /** @type {Map<string, T>} */
    this.things = new Map()
  }

  /**
   * @param {string} name
   * @returns {T | undefined}
   */
  get(name) {
    const found = this.things.get(name)
    if (found === undefined) return undefined
    this.things.delete(name)
    this.things.set(name, found)
    return found
  }

  /**
   * @param {string} name
   * @param {T} thing
   */
  put(name, thing) {
    this.remove(name, thing)
    this.things.set(name, thing)
    this.used += this.size(thing)
    for (const old of this.things.keys()) {
      if (this.used <= this.most || old === name) break
      this.remove(old)
    }
  }

  clear() {
    for (const name of [...this.things.keys()]) this.remove(name)
  }

  /**
   * @param {string} name
   * @param {T} [keep] a thing that comes again, and is not dropped
   */
  remove(name, keep) {
    const old = this.things.get(name)
    if (old === undefined) return
    this.things.delete(name)
    this.used -= this.size(old)
    if (old !== keep) this.drop(old)
  }
}
