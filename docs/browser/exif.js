// Browsers turn pictures by their EXIF orientation, whatever they are asked for; without EXIF they show what is stored.

const EXIF = [0x45, 0x78, 0x69, 0x66, 0, 0];

/** A copy of a JPEG or PNG file whose EXIF record is no longer called one. */
export function withoutExif(bytes) {
  const copy = bytes.slice(), data = new DataView(copy.buffer);
  if (copy[0] === 0xff && copy[1] === 0xd8) hideInJpeg(copy, data);
  else if (copy[0] === 0x89 && copy[1] === 0x50) hideInPng(copy, data);
  return copy;
}

/** Segments up to the first scan: FF, marker, length of two bytes, which counts itself. */
function hideInJpeg(copy, data) {
  for (let at = 2; at + 4 <= copy.length && copy[at] === 0xff && copy[at + 1] !== 0xda; at += 2 + data.getUint16(at + 2)) {
    if (copy[at + 1] === 0xe1 && EXIF.every((byte, k) => copy[at + 4 + k] === byte)) copy[at + 4] = 0;
  }
}

/** Chunks: length of four bytes, name, data, checksum; one of a wrong checksum that is not critical is passed over. */
function hideInPng(copy, data) {
  for (let at = 8; at + 12 <= copy.length; at += 12 + data.getUint32(at)) {
    if (String.fromCharCode(...copy.subarray(at + 4, at + 8)) === "eXIf") copy[at + 8] ^= 0xff;
  }
}
