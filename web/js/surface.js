/** A canvas that is as sharp as the screen, drawn at most once a frame. */

/** Never more pixels a CSS pixel than this: a zoomed canvas of the host would ask for any number. */
const SHARPEST = 3

export class Surface {
  /**
   * @param {(context: CanvasRenderingContext2D, width: number, height: number) => void} draw in CSS pixels
   * @param {string} label what a screen reader says
   */
  constructor(draw, label) {
    this.draw = draw
    this.element = document.createElement('canvas')
    this.element.setAttribute('role', 'img')
    this.element.setAttribute('aria-label', label)
    this.element.style.display = 'block'
    this.context = /** @type {CanvasRenderingContext2D} */ (this.element.getContext('2d'))
  }

  /** Draws now, at the size and the zoom that the element has now. */
  paint() {
    const { element, context } = this
    const [width, height] = [element.clientWidth, element.clientHeight]
    if (!width || !height) return
    const zoom = element.getBoundingClientRect().width / width
    const sharp = Math.min(SHARPEST, Math.max(1, window.devicePixelRatio * zoom))
    const [w, h] = [Math.round(width * sharp), Math.round(height * sharp)]
    if (element.width !== w || element.height !== h) {
      element.width = w
      element.height = h
    }
    context.setTransform(w / width, 0, 0, h / height, 0, 0)
    context.clearRect(0, 0, width, height)
    this.draw(context, width, height)
  }
}

/**
 * Calls `draw` before the next frame, once, however often it is asked to.
 * @param {(time: number) => void} draw
 * @returns {() => void}
 */
export function onNextFrame(draw) {
  let waiting = false
  return () => {
    if (waiting) return
    waiting = true
    requestAnimationFrame((time) => {
      waiting = false
      draw(time)
    })
  }
}
