/** Presses and drags on an element, in its own CSS pixels, whatever the host's canvas scales it by. */

/** @typedef {{x: number, y: number, coarse: boolean, event: PointerEvent}} Spot */
/** What follows a press. @typedef {{move?(spot: Spot): void, end?(spot: Spot, moved: boolean): void, cancel?(): void}} Drag */

const STILL = 3 // pixels that a hand shakes

/**
 * @param {HTMLElement} element
 * @param {object} on
 * @param {(spot: Spot) => Drag | null} on.press null leaves the press to nobody
 * @param {(spot: Spot) => void} [on.hover] moves without a button
 * @param {() => void} [on.leave]
 */
export function onPointer(element, { press, hover, leave }) {
  /** @type {{drag: Drag, id: number, from: Spot, moved: boolean} | null} */
  let held = null
  element.style.touchAction = 'none'
  element.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || held) return
    event.stopPropagation() // the node must not move along
    const from = spotOf(element, event)
    const drag = press(from)
    if (!drag) return
    element.setPointerCapture(event.pointerId)
    held = { drag, id: event.pointerId, from, moved: false }
  })
  element.addEventListener('pointermove', (event) => {
    const spot = spotOf(element, event)
    if (!held) return hover?.(spot)
    if (event.pointerId !== held.id) return
    event.stopPropagation()
    held.moved ||= Math.hypot(spot.x - held.from.x, spot.y - held.from.y) >= STILL
    if (held.moved) held.drag.move?.(spot)
  })
  element.addEventListener('pointerup', (event) => {
    if (event.pointerId !== held?.id) return
    event.stopPropagation()
    const { drag, moved } = held
    held = null
    drag.end?.(spotOf(element, event), moved)
  })
  element.addEventListener('pointercancel', () => {
    held?.drag.cancel?.()
    held = null
  })
  element.addEventListener('pointerleave', () => !held && leave?.())
}

/**
 * @param {HTMLElement} element
 * @param {PointerEvent} event
 * @returns {Spot}
 */
function spotOf(element, event) {
  const { left, top, width, height } = element.getBoundingClientRect()
  return {
    x: ((event.clientX - left) * element.clientWidth) / (width || 1),
    y: ((event.clientY - top) * element.clientHeight) / (height || 1),
    coarse: event.pointerType === 'touch',
    event
  }
}
