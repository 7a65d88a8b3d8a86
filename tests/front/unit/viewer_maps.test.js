import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  blend,
  cover,
  heatSize,
  rampOfColour,
  rampOfDifference,
  rampOfMap,
  resized
} from '../../../web/js/viewer/heat.js'
import {
  difference,
  differenceScale,
  frameValues,
  meanOf,
  scaleOf,
  sliceBytes,
  slicesOf,
  unit,
  valueAt
} from '../../../web/js/viewer/slices.js'

/**
 * A slice as a server sends it.
 * @param {number} peak
 * @param {number[]} seen
 * @param {number[]} codes
 */
function sent(peak, seen, codes) {
  const data = new Uint8Array(4 + seen.length + codes.length)
  new DataView(data.buffer).setFloat32(0, peak, true)
  data.set(seen, 4)
  data.set(codes, 4 + seen.length)
  return data
}

test('slices that lie one behind the other come apart', () => {
  const parts = [sent(0.5, [1, 0], [0, 255, 128, 51]), sent(0.25, [1, 1], [255, 255, 0, 0])]
  const data = new Uint8Array(parts.flatMap((part) => [...part]))
  const [one, other] = slicesOf(data.buffer, 2, [2, 1, 2])
  assert.equal(sliceBytes([13, 30, 45]), 17567)
  assert.deepEqual([...frameValues(one, 0)], [0, 0.5])
  assert.ok(Math.abs(frameValues(one, 1)[1] - 0.5 * 0.04) < 1e-7)
  assert.equal(valueAt(one, 0, 1), 0.5)
  assert.equal(valueAt(one, 1, 1), null)
  assert.equal(meanOf(one), 0.25)
  assert.equal(meanOf(other), 0.125)
  assert.throws(() => slicesOf(data.buffer, 1, [2, 1, 2]), /1 maps of 2 x 1 x 2 tokens take 10 bytes; got 20/)
})

test('the colour scale is that of the Python pictures: percentiles 2 and 99.7, of what was recorded', () => {
  const codes = Array.from({ length: 200 }, (_, i) => i)
  const [slice] = slicesOf(sent(1, [1, 0], [...codes, ...Array(200).fill(255)]).buffer, 1, [2, 10, 20])
  const values = codes.map((code) => (code / 255) ** 2)
  /** @type {(share: number) => number} */
  const at = (share) => {
    const place = share * 199
    const low = values[Math.floor(place)]
    return low + (values[Math.ceil(place)] - low) * (place % 1)
  }
  const [low, high] = scaleOf(slice, null)
  assert.ok(Math.abs(low - at(0.02)) < 1e-6)
  assert.ok(Math.abs(high - at(0.997)) < 1e-6)
  assert.deepEqual(scaleOf(slice, 0), [low, high])
  assert.deepEqual(scaleOf(slice, 1), [0, 0])
  const placed = unit(Float32Array.of(low - 1, low, high, 2), [low, high])
  assert.deepEqual(
    [...placed].map((value) => Number(value.toFixed(5))),
    [0, 0, 1, 1]
  )
  assert.deepEqual([...unit(Float32Array.of(0.3, 0.3), [0.3, 0.3])], [0, 0])
})

test('what one map has more than another', () => {
  const [one] = slicesOf(sent(1, [1, 1], [255, 0, 255, 255]).buffer, 1, [2, 1, 2])
  const [other] = slicesOf(sent(0.5, [1, 0], [255, 255, 0, 0]).buffer, 1, [2, 1, 2])
  assert.deepEqual([...(difference(one, other, 0) ?? [])], [0.5, -0.5])
  assert.equal(difference(one, other, 1), null)
  assert.equal(differenceScale(one, other, null), 0.5)
  assert.equal(differenceScale(one, other, 1), 0)
})

test('a resized map keeps a level, runs through its values, and goes on at the edges', () => {
  const flat = resized(new Float32Array(6).fill(0.3), 3, 2, 24, 16)
  assert.equal(flat.length, 24 * 16)
  assert.ok(flat.every((value) => Math.abs(value - 0.3) < 1e-6))
  const ramp = resized(Float32Array.of(0, 1, 2, 3), 4, 1, 12, 1)
  assert.ok(Math.abs(ramp[4] - 1) < 1e-6, `${ramp[4]}`)
  assert.ok([...ramp].every((value, i) => i === 0 || value >= ramp[i - 1] - 1e-6))
  const same = Float32Array.of(1, 2, 3, 4)
  assert.equal(resized(same, 2, 2, 2, 2), same)
  assert.deepEqual(heatSize(45, 30, true), [360, 240])
  assert.deepEqual(heatSize(45, 30, false), [45, 30])
  assert.deepEqual(heatSize(400, 2, true), [400, 2])
})

test('ramps: nothing where nothing looks, the colour map or the word, blue and red for differences', () => {
  const table = Uint8Array.from({ length: 768 }, (_, i) => Math.floor(i / 3))
  const single = rampOfMap(table, 1)
  assert.equal(single[3], 0)
  assert.deepEqual([...single.slice(-4)], [255, 255, 255, 255])
  const word = rampOfColour([200, 0, 0], 0.5)
  assert.equal(word[3], 0)
  assert.ok(word[4 * 255 + 3] > 120 && word[4 * 255 + 3] < 129)
  assert.ok(word[4 * 255] > word[4 * 255 + 1])
  const both = rampOfDifference(1)
  assert.ok(both[2] > both[0] && both[4 * 255] > both[4 * 255 + 2])
  assert.ok(both[4 * 127 + 3] < 5)
  assert.equal(cover(0, 1), 0)
  assert.equal(cover(1, 0.8), 0.8)
})

test('where words meet the strongest covers, and colours mix by strength', () => {
  const red = rampOfColour([255, 0, 0], 1)
  const green = rampOfColour([0, 255, 0], 1)
  const pixels = new Uint8ClampedArray(12)
  const heats = [
    { values: Float32Array.of(1, 0, 0.5), colours: red },
    { values: Float32Array.of(0, 0, 0.5), colours: green }
  ]
  blend(pixels, heats)
  assert.ok(pixels[0] === 255 && pixels[1] < 120 && pixels[3] === 255)
  assert.equal(pixels[7], 0)
  assert.equal(pixels[8], pixels[9])
  const turned = new Uint8ClampedArray(12)
  blend(turned, [heats[1], heats[0]])
  assert.deepEqual(turned, pixels)
})
