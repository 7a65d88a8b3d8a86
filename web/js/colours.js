/**
 * Colours of instances, as the pictures of the library have them (`core/tracks/palette.py`, `draw/style.py`): the same
 * instance has the same colour in the page, in every preview and in the ID map.
 */

/** Red, green and blue, 0 to 255. @typedef {[number, number, number]} Colour */

/** Surfaces and text of every picture; ComfyUI's canvas is dark, too. */
export const INK = {
  page: 'rgb(17 19 24)',
  panel: 'rgb(28 31 38)',
  line: 'rgb(62 67 79)',
  faint: 'rgb(136 143 157)',
  soft: 'rgb(188 194 206)',
  text: 'rgb(240 242 247)',
  accent: 'rgb(255 184 92)'
}

/** @type {Colour[]} */
const FIXED = [
  [255, 0, 0],
  [0, 255, 0],
  [0, 0, 255],
  [255, 255, 0],
  [255, 0, 255]
]
const GOLDEN = 0.618033988749895
/** Saturation and value. @type {[number, number][]} */
const TONES = [
  [0.95, 1.0],
  [0.5, 1.0],
  [0.85, 0.6]
]

/**
 * The first `count` colours of instances: always the same ones.
 * @param {number} count
 * @returns {Colour[]}
 */
export function distinctColours(count) {
  const chosen = FIXED.slice(0, count)
  let [least, refused, hue] = [140, 0, 0.5]
  for (let step = 0; chosen.length < count; step += 1) {
    const colour = fromHsv(hue, ...TONES[step % 3])
    if ([[0, 0, 0], ...chosen].every((other) => squared(colour, /** @type {Colour} */ (other)) >= least ** 2)) {
      chosen.push(colour)
    } else {
      refused += 1
      if (refused % 24 === 0) least *= 0.8
    }
    hue = (hue + GOLDEN) % 1
  }
  return chosen
}

/**
 * A colour of the same hue, light and calm enough for a dark page.
 * @param {Colour} colour
 * @returns {Colour}
 */
export function readable(colour) {
  const light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
  const white = Math.max(0.16, (120 - light) / Math.max(255 - light, 1))
  return /** @type {Colour} */ (colour.map((part) => whole(part + (255 - part) * white)))
}

/**
 * @param {Colour} colour
 * @param {number} [opacity]
 */
export function css(colour, opacity = 1) {
  return `rgb(${colour.join(' ')} / ${opacity})`
}

/**
 * @param {Colour} one
 * @param {Colour} other
 */
function squared(one, other) {
  return one.reduce((sum, part, i) => sum + (part - other[i]) ** 2, 0)
}

/**
 * @param {number} hue
 * @param {number} saturation
 * @param {number} value
 * @returns {Colour}
 */
function fromHsv(hue, saturation, value) {
  const sector = Math.floor(hue * 6)
  const part = hue * 6 - sector
  const low = value * (1 - saturation)
  const falling = value * (1 - saturation * part)
  const rising = value * (1 - saturation * (1 - part))
  const sectors = [
    [value, rising, low],
    [falling, value, low],
    [low, value, rising],
    [low, falling, value],
    [rising, low, value],
    [value, low, falling]
  ]
  return /** @type {Colour} */ (sectors[sector % 6].map((one) => whole(one * 255)))
}

/** Halves go to the even number, as Python rounds. @param {number} value */
function whole(value) {
  const down = Math.floor(value)
  return value - down === 0.5 ? down + (down % 2) : Math.round(value)
}
