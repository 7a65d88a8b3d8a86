/**
 * A film as a WebM file, picture by picture: the browser's encoder and a few elements of Matroska around what it gives. No
 * picture is dropped however busy the machine is, and nobody waits for the film to play.
 */

const CODEC = 'vp8'
const BITS = 8e6 // a second
const KEY_EVERY = 2 // seconds
const CLUSTER = 20_000 // milliseconds; times in one are two bytes

/** @typedef {{data: Uint8Array, time: number, key: boolean}} Block time in milliseconds */

/**
 * Whether this browser can: its encoder is there on secure pages alone.
 * @param {{width: number, height: number}} size
 */
export async function encodes({ width, height }) {
  if (typeof VideoEncoder === 'undefined') return false
  return (await VideoEncoder.isConfigSupported({ codec: CODEC, width, height })).supported === true
}

/**
 * @param {HTMLCanvasElement} canvas whose size does not change
 * @param {number} count
 * @param {number} fps
 * @param {(picture: number) => Promise<void>} draw
 * @returns {Promise<Blob>}
 */
export async function webmOf(canvas, count, fps, draw) {
  /** @type {Block[]} */
  const blocks = []
  /** @type {unknown} */
  let wrong = null
  const encoder = new VideoEncoder({
    output: (chunk) => {
      const data = new Uint8Array(chunk.byteLength)
      chunk.copyTo(data)
      blocks.push({ data, time: Math.round(chunk.timestamp / 1000), key: chunk.type === 'key' })
    },
    error: (error) => {
      wrong = error
    }
  })
  const { width, height } = canvas
  encoder.configure({ codec: CODEC, width, height, bitrate: BITS, framerate: fps })
  const keys = Math.max(1, Math.round(KEY_EVERY * fps))
  for (let picture = 0; picture < count && !wrong; picture++) {
    await draw(picture)
    const frame = new VideoFrame(canvas, { timestamp: (picture * 1e6) / fps, duration: 1e6 / fps })
    encoder.encode(frame, { keyFrame: picture % keys === 0 })
    frame.close()
    if (encoder.encodeQueueSize > 8) await new Promise((resolve) => setTimeout(resolve, 10))
  }
  if (!wrong) await encoder.flush()
  if (wrong) throw wrong
  encoder.close()
  return webm(blocks, { width, height }, count / fps, fps)
}

/**
 * @param {Block[]} blocks
 * @param {{width: number, height: number}} size
 * @param {number} seconds
 * @param {number} fps
 */
function webm(blocks, { width, height }, seconds, fps) {
  const head = element(0x1a45dfa3, [
    ...[element(0x4286, whole(1)), element(0x42f7, whole(1)), element(0x42f2, whole(4)), element(0x42f3, whole(8))],
    ...[element(0x4282, text('webm')), element(0x4287, whole(2)), element(0x4285, whole(2))]
  ])
  const info = element(0x1549a966, [
    ...[element(0x2ad7b1, whole(1_000_000)), element(0x4489, real(seconds * 1000))],
    ...[element(0x4d80, text('MATRIX')), element(0x5741, text('MATRIX'))]
  ])
  const video = element(0xe0, [element(0xb0, whole(width)), element(0xba, whole(height))])
  const track = element(0xae, [
    ...[element(0xd7, whole(1)), element(0x73c5, whole(1)), element(0x83, whole(1)), element(0x86, text('V_VP8'))],
    ...[element(0x23e383, whole(Math.round(1e9 / fps))), video]
  ])
  const segment = element(0x18538067, [info, element(0x1654ae6b, [track]), ...clusters(blocks)])
  return new Blob([head, segment], { type: 'video/webm' })
}

/** @param {Block[]} blocks */
function clusters(blocks) {
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const found = []
  /** @type {Uint8Array[]} */
  let parts = []
  let start = 0
  blocks.forEach(({ data, time, key }, i) => {
    if (!i || (key && time - start > CLUSTER)) {
      if (parts.length) found.push(element(0x1f43b675, parts))
      start = time
      parts = [element(0xe7, whole(time))]
    }
    const at = time - start
    parts.push(element(0xa3, [Uint8Array.of(0x81, (at >> 8) & 255, at & 255, key ? 0x80 : 0), data]))
  })
  return parts.length ? [...found, element(0x1f43b675, parts)] : found
}

/**
 * An element: its id, eight bytes of size, and what is in it.
 * @param {number} id
 * @param {Uint8Array | Uint8Array[]} inside
 */
function element(id, inside) {
  const parts = Array.isArray(inside) ? inside : [inside]
  const size = parts.reduce((sum, { length }) => sum + length, 0)
  const name = whole(id)
  const made = new Uint8Array(name.length + 8 + size)
  made.set(name)
  const view = new DataView(made.buffer)
  view.setUint32(name.length, 0x01000000 + Math.floor(size / 2 ** 32))
  view.setUint32(name.length + 4, size % 2 ** 32)
  let at = name.length + 8
  for (const part of parts) {
    made.set(part, at)
    at += part.length
  }
  return made
}

/** In as few bytes as it takes, the highest first. @param {number} value */
function whole(value) {
  /** @type {number[]} */
  const bytes = []
  for (let rest = value; rest > 0 || !bytes.length; rest = Math.floor(rest / 256)) bytes.unshift(rest % 256)
  return Uint8Array.from(bytes)
}

/** @param {number} value */
function real(value) {
  const made = new Uint8Array(8)
  new DataView(made.buffer).setFloat64(0, value)
  return made
}

/** @param {string} value */
const text = (value) => new TextEncoder().encode(value)
