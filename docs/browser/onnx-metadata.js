// Reads `metadata_props` of an ONNX file (a protocol buffer), which ONNX Runtime Web does not hand out.

const METADATA_PROPS = 14; // field of ModelProto; each entry has the fields key = 1 and value = 2

/** The properties under `prefix`, each parsed as JSON. */
export function readMetadata(bytes, prefix) {
  const found = {};
  for (const [field, entry] of fields(bytes)) {
    if (field !== METADATA_PROPS) continue;
    const pair = new Map([...fields(entry)].map(([name, text]) => [name, new TextDecoder().decode(text)]));
    const key = pair.get(1) ?? "";
    if (key.startsWith(prefix)) found[key.slice(prefix.length)] = JSON.parse(pair.get(2) ?? "null");
  }
  return found;
}

/** [field number, bytes] of every length-delimited field of a message. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0, factor = 1, octet;
    do {
      if (at >= bytes.length) throw new Error("not an ONNX file");
      octet = bytes[at++];
      value += (octet & 127) * factor;
      factor *= 128;
    } while (octet & 128);
    return value;
  };
  while (at < bytes.length) {
    const tag = varint(), kind = tag % 8, field = Math.floor(tag / 8);
    if (kind === 0) varint();
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === 2) {
      const length = varint();
      if (at + length > bytes.length) throw new Error("not an ONNX file, or a truncated one");
      yield [field, bytes.subarray(at, at + length)];
      at += length;
    } else throw new Error("not an ONNX file");
  }
}
