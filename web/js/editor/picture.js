/**
 * The picture that is linked into a node: frames that the node returned when it ran, else what a load node shows. Pictures
 * come from the host's own folders alone, by its own addresses.
 */
import { address } from '../report.js'
import { feeding, widgetOf } from './graph.js'

/** @typedef {import('../../../tests/front/host').HostNode} HostNode */
/** @typedef {import('../report.js').SavedFile} SavedFile */
/**
 * Frames as cells of one picture.
 * @typedef {object} Sheet
 * @property {SavedFile} file
 * @property {number} columns
 * @property {number} count cells
 * @property {number} every frames from one cell to the next
 * @property {number} frames of the clip
 * @property {[number, number]} size width and height of the clip
 * @property {string} source what was linked in when it was made
 */

/** Where a sheet is kept among a node's properties. */
export const SHEET = 'matrix_frames'
const FRAMES_OF = ['video', 'images', 'image', 'frames'] // inputs that hand a picture on
const LOADERS = /** @type {Record<string, string>} */ ({ LoadImage: 'image', LoadVideo: 'file' })
const EXAMPLE = 'MatrixExampleClip'
const MOVING = /\.(mp4|webm|mov|mkv|m4v)$/i

/** @typedef {{key: string, url: string, sheet: Sheet | null, moving: boolean}} Found */

export class Pictures {
  /**
   * @param {HostNode} node
   * @param {string} input
   * @param {(path: string) => string} served the whole address of a path of the host
   * @param {string} pages the address of the pack's own pages
   * @param {() => void} changed
   */
  constructor(node, input, served, pages, changed) {
    this.node = node
    this.input = input
    this.served = served
    this.pages = pages
    this.changed = changed
    /** @type {Found | null} */
    this.found = null
    /** @type {HTMLImageElement | HTMLVideoElement | null} */
    this.media = null
    this.broken = new Set()
  }

  /** Looks again at what is linked in. */
  refresh() {
    const found = this.find()
    if (found?.key === this.found?.key) return
    this.found = found
    this.media = null
    if (found) this.load(found)
    this.changed()
  }

  /** @returns {{width: number, height: number, frames: number | null} | null} of the clip; null where nobody knows */
  size() {
    const sheet = this.found?.sheet
    if (sheet) return { width: sheet.size[0], height: sheet.size[1], frames: sheet.frames > 1 ? sheet.frames : null }
    const media = this.media
    if (!media) return null
    const [width, height] =
      media instanceof HTMLVideoElement
        ? [media.videoWidth, media.videoHeight]
        : [media.naturalWidth, media.naturalHeight]
    return width && height ? { width, height, frames: null } : null
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} frame
   * @param {number} x
   * @param {number} y
   * @param {number} width
   * @param {number} height
   * @returns {boolean} false where there is nothing to draw yet
   */
  draw(context, frame, x, y, width, height) {
    const { media, found } = this
    if (!media || !this.size()) return false
    if (media instanceof HTMLImageElement && (!media.complete || !media.naturalWidth)) return false
    const sheet = found?.sheet
    if (!sheet) {
      context.drawImage(media, x, y, width, height)
      return true
    }
    const image = /** @type {HTMLImageElement} */ (media)
    const cell = Math.min(sheet.count - 1, Math.round(frame / sheet.every))
    const rows = Math.ceil(sheet.count / sheet.columns)
    const [w, h] = [image.naturalWidth / sheet.columns, image.naturalHeight / rows]
    context.drawImage(
      image,
      (cell % sheet.columns) * w,
      Math.floor(cell / sheet.columns) * h,
      w,
      h,
      x,
      y,
      width,
      height
    )
    return true
  }

  /** @returns {Found | null} */
  find() {
    const source = this.source()
    const sheet = asSheet(this.node.properties?.[SHEET])
    if (sheet && source && sheet.source === source.key) {
      const url = this.served(address(sheet.file))
      if (!this.broken.has(url)) return { key: url, url, sheet, moving: false }
    }
    return source?.url && !this.broken.has(source.url) ? source : null
  }

  /**
   * What feeds the input: the file of a load node, or the first picture that a node has shown.
   * @returns {Found | null}
   */
  source() {
    /** @type {HostNode | null} */
    let node = feeding(this.node, this.input)
    for (let step = 0; node && step < 50; step += 1) {
      const url = this.shownBy(node)
      const next = FRAMES_OF.map((name) => feeding(/** @type {HostNode} */ (node), name)).find((one) => one) ?? null
      if (url || !next)
        return { key: `${node.id} ${valuesOf(node)}`, url: url ?? '', sheet: null, moving: MOVING.test(url ?? '') }
      node = next
    }
    return null
  }

  /**
   * @param {HostNode} node
   * @returns {string | null}
   */
  shownBy(node) {
    const type = node.comfyClass ?? ''
    if (type === EXAMPLE) return `${this.pages}/docs/images/example-${widgetOf(node, 'clip')?.value}.webp`
    const file = LOADERS[type] && fileOf(widgetOf(node, LOADERS[type])?.value)
    if (file) return this.served(address(file))
    const shown = node.imgs?.[0]?.src
    return shown && new URL(shown, location.href).origin === location.origin ? shown : null
  }

  /** @param {Found} found */
  load({ url, moving }) {
    const media = document.createElement(moving ? 'video' : 'img')
    const failed = () => {
      this.broken.add(url)
      this.refresh()
    }
    media.addEventListener('error', failed)
    media.addEventListener(moving ? 'loadeddata' : 'load', () => this.media === media && this.changed())
    if (media instanceof HTMLVideoElement) {
      media.muted = true
      media.preload = 'auto'
    }
    media.src = url
    this.media = /** @type {HTMLImageElement | HTMLVideoElement} */ (media)
  }

  /**
   * Brings a film to a frame; sheets and pictures need nothing.
   * @param {number} seconds
   */
  seek(seconds) {
    const { media } = this
    if (!(media instanceof HTMLVideoElement) || Math.abs(media.currentTime - seconds) < 0.01 || media.seeking) return
    media.currentTime = seconds
    media.addEventListener('seeked', this.changed, { once: true })
  }
}

/**
 * A file as a load node names it: "folder/name.png [input]".
 * @param {unknown} value
 * @returns {SavedFile | null}
 */
export function fileOf(value) {
  const match = /^(?:(.*)\/)?([^/]+?)(?: \[(input|output|temp)\])?$/.exec(String(value ?? ''))
  return match ? { filename: match[2], subfolder: match[1] ?? '', type: match[3] ?? 'input' } : null
}

/** @param {HostNode} node */
const valuesOf = (node) =>
  JSON.stringify((node.widgets ?? []).filter(({ name }) => !name.startsWith('matrix_')).map(({ value }) => value))

/**
 * @param {unknown} value whatever a workflow holds
 * @returns {Sheet | null}
 */
export function asSheet(value) {
  const { file, columns, count, every, frames, size, source } = /** @type {Record<string, any>} */ (value ?? {})
  const whole = [columns, count, every, frames, ...(Array.isArray(size) && size.length === 2 ? size : [0])]
  if (!whole.every((one) => Number.isInteger(one) && one > 0 && one < 1e6)) return null
  if (typeof file?.filename !== 'string' || file.type !== 'temp' || typeof source !== 'string') return null
  return {
    file: { filename: file.filename, subfolder: String(file.subfolder ?? ''), type: 'temp' },
    ...{ columns, count, every, frames, size, source }
  }
}
