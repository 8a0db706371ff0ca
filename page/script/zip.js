// A ZIP file of files that are packed already: PNGs as they are, without compression.
// Source: APPNOTE.TXT by PKWARE, 4.3.7 (local header), 4.3.12 (central directory), 4.3.16 (end).

const CRC = Uint32Array.from({ length: 256 }, (_, number) => {
  for (let bit = 0; bit < 8; bit++) number = number & 1 ? (number >>> 1) ^ 0xedb88320 : number >>> 1;
  return number;
});
const crc32 = (bytes) => {
  let crc = -1;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
};

// Numbers as ZIP writes them, least byte first: each a pair of its value and its number of bytes.
const packed = (...numbers) =>
  Uint8Array.from(numbers.flatMap(([value, size]) => Array.from({ length: size }, (_, at) => (value / 256 ** at) & 0xff)));

const dosTime = (time) => [
  [(time.getHours() << 11) | (time.getMinutes() << 5) | (time.getSeconds() >> 1), 2],
  [((time.getFullYear() - 1980) << 9) | ((time.getMonth() + 1) << 5) | time.getDate(), 2],
];

// `files`: { name, blob, at }, `at` in milliseconds since 1970. Equal names get a number.
const zip = async (files) => {
  const [parts, directory, taken] = [[], [], new Map()];
  let [offset, directorySize] = [0, 0];
  for (const { name, blob, at } of files) {
    const again = taken.get(name) ?? 0;
    taken.set(name, again + 1);
    const path = new TextEncoder().encode(again ? name.replace(/(\.\w+)?$/, `-${again + 1}$1`) : name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    // version 2.0, names in UTF-8, stored
    const common = [[20, 2], [0x800, 2], [0, 2], ...dosTime(new Date(at)), [crc, 4], [blob.size, 4], [blob.size, 4]];
    const header = packed([0x04034b50, 4], ...common, [path.length, 2], [0, 2]);
    parts.push(header, path, blob);
    directory.push(packed([0x02014b50, 4], [20, 2], ...common, [path.length, 2], [0, 12], [offset, 4]), path);
    offset += header.length + path.length + blob.size;
    directorySize += 46 + path.length;
  }
  const count = [files.length, 2];
  const end = packed([0x06054b50, 4], [0, 4], count, count, [directorySize, 4], [offset, 4], [0, 2]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
};
