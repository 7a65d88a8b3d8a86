/**
 * Heat: values on a token grid to pixels. Plain numbers, no page.
 *
 * Values are interpolated first and coloured then, so that colours in between are those of the colour map.
 */

/** @typedef {[number, number, number]} Rgb */

/**
 * What stands for each of 256 levels: red, green, blue, alpha, each 0 to 255.
 * @typedef {Uint8ClampedArray} Ramp
 */

const LEVELS = 256
const FIRST = 0.18 // the darkest part of a colour map is lost on a picture
const LONGEST = 384 // pixels of smooth heat, which is then stretched over the picture

/**
 * How much heat covers a picture at each level: nothing where nothing looks, softly at first.
 * @param {number} value 0 to 1
 * @param {number} strength 0 to 1
 * @returns {number} 0 to 1
 */
export function cover(value, strength) {
  const ease = value * value * (3 - 2 * value)
  return strength * (0.12 * Math.sqrt(value) + 0.88 * (0.5 * value + 0.5 * ease))
}

/**
 * The ramp of a colour map, for one word alone.
 * @param {Uint8Array} table 256 colours
 * @param {number} strength
 * @returns {Ramp}
 */
export function rampOfMap(table, strength) {
  return ramp(strength, (value) => {
    const at = 3 * Math.round((FIRST + (1 - FIRST) * value) * (LEVELS - 1))
    return [table[at], table[at + 1], table[at + 2]]
  })
}

/**
 * The ramp of a word's own colour, for several together: brighter where it is strongest.
 * @param {Rgb} colour
 * @param {number} strength
 * @returns {Ramp}
 */
export function rampOfColour(colour, strength) {
  return ramp(strength, (value) => {
    const white = 0.35 * value ** 4
    const [red, green, blue] = colour.map((part) => part + (255 - part) * white)
    return [red, green, blue]
  })
}

/**
 * The ramp of differences: blue below, nothing at 0, red above.
 * @param {number} strength
 * @returns {Ramp}
 */
export function rampOfDifference(strength) {
  const made = new Uint8ClampedArray(4 * LEVELS)
  for (let level = 0; level < LEVELS; level++) {
    const value = (level / (LEVELS - 1)) * 2 - 1
    made.set(value < 0 ? [70, 150, 255] : [255, 96, 72], 4 * level)
    made[4 * level + 3] = 255 * Math.min(1, Math.abs(value) ** 0.8) * strength
  }
  return made
}

/**
 * @param {number} strength
 * @param {(value: number) => Rgb} colour
 * @returns {Ramp}
 */
function ramp(strength, colour) {
  const made = new Uint8ClampedArray(4 * LEVELS)
  for (let level = 0; level < LEVELS; level++) {
    const value = level / (LEVELS - 1)
    made.set(colour(value), 4 * level)
    made[4 * level + 3] = 255 * cover(value, strength)
  }
  return made
}

/**
 * The size at which heat of a token grid is computed.
 * @param {number} columns
 * @param {number} rows
 * @param {boolean} smooth
 * @returns {[number, number]} width, height
 */
export function heatSize(columns, rows, smooth) {
  if (!smooth) return [columns, rows]
  const factor = Math.max(1, Math.min(12, Math.floor(LONGEST / Math.max(columns, rows))))
  return [columns * factor, rows * factor]
}

/**
 * Values of one size as those of another, by cubic interpolation (Keys 1981, a = -0.5); edges go on as they are.
 * @param {Float32Array} values rows * columns
 * @param {number} columns
 * @param {number} rows
 * @param {number} width
 * @param {number} height
 * @returns {Float32Array} height * width
 */
export function resized(values, columns, rows, width, height) {
  if (columns === width && rows === height) return values
  const across = taps(columns, width)
  const down = taps(rows, height)
  const wide = new Float32Array(rows * width)
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0
      for (let i = 4 * x; i < 4 * x + 4; i++) sum += across.weights[i] * values[y * columns + across.places[i]]
      wide[y * width + x] = sum
    }
  }
  const made = new Float32Array(height * width)
  for (let y = 0; y < height; y++) {
    for (let i = 4 * y; i < 4 * y + 4; i++) {
      const weight = down.weights[i]
      const from = down.places[i] * width
      for (let x = 0; x < width; x++) made[y * width + x] += weight * wide[from + x]
    }
  }
  return made
}

/**
 * For each of `made` places along an axis the four of `given` around it, and their weights.
 * @param {number} given
 * @param {number} made
 */
function taps(given, made) {
  const places = new Int32Array(4 * made)
  const weights = new Float32Array(4 * made)
  for (let i = 0; i < made; i++) {
    const at = ((i + 0.5) * given) / made - 0.5
    const first = Math.floor(at) - 1
    for (let k = 0; k < 4; k++) {
      places[4 * i + k] = Math.min(given - 1, Math.max(0, first + k))
      weights[4 * i + k] = cubic(Math.abs(at - first - k))
    }
  }
  return { places, weights }
}

/** @param {number} x */
function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
}

/**
 * Heats of several words as pixels. Where they meet, colours mix by how strong each is, and the strongest says how much of
 * the picture is covered: none lies on top of another.
 * @param {Uint8ClampedArray} pixels red, green, blue, alpha of each; written
 * @param {{values: Float32Array, colours: Ramp}[]} heats values from 0 to 1, one for each pixel
 */
export function blend(pixels, heats) {
  const count = pixels.length / 4
  for (let i = 0; i < count; i++) {
    const sums = [0, 0, 0]
    let total = 0
    let most = 0
    for (const { values, colours } of heats) {
      const at = 4 * Math.round(Math.min(1, Math.max(0, values[i])) * (LEVELS - 1))
      const alpha = colours[at + 3]
      const weight = alpha * alpha
      for (let k = 0; k < 3; k++) sums[k] += weight * colours[at + k]
      total += weight
      if (alpha > most) most = alpha
    }
    if (!total) continue
    for (let k = 0; k < 3; k++) pixels[4 * i + k] = sums[k] / total
    pixels[4 * i + 3] = most
  }
}
