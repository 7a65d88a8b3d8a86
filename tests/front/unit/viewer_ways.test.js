import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readWays } from '../../../web/js/viewer/picture.js'

const POINT = {
  name: 'point 1 1 @0',
  colour: [1, 2, 3],
  xy: [
    [0, 0],
    [0.1, 0],
    [0.2, 0]
  ],
  seen: [true, true, false]
}

/** @param {number[][]} pictures */
function exhibit(pictures) {
  const reading = { points: [POINT], ends: [0, 2] }
  return /** @type {any} */ ({ manifest: { streams: [{ pictures }] }, reading: () => reading })
}

/** @param {number[][]} pictures @param {number} picture */
function ways(pictures, picture) {
  return readWays(exhibit(pictures), /** @type {any} */ ({ stream: 0, picture }), /** @type {any} */ ({ stream: 0 }))
}

test('a followed point has come as far as the frame that is shown', () => {
  const film = [
    [0, 0],
    [1, 1],
    [2, 1]
  ]
  assert.deepEqual(ways(film, 1), [
    {
      colour: [1, 2, 3],
      places: [
        [0, 0],
        [0.1, 0]
      ],
      found: true
    }
  ])
  assert.equal(ways(film, 2)[0].found, false)
})

test('without a film it has come to the end of the token frame', () => {
  const still = [
    [0, 0],
    [0, 1]
  ]
  assert.equal(ways(still, 1)[0].places.length, 3)
  assert.equal(ways(still, 0)[0].places.length, 1)
  assert.deepEqual(
    readWays(/** @type {any} */ ({ reading: () => undefined }), /** @type {any} */ ({}), /** @type {any} */ ({})),
    []
  )
})
