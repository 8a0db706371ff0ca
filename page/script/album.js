// This browser's pictures: each with its settings and a small one of it in `pictures`, its file in `files`. Where the
// browser keeps nothing (a private window), they last as long as the page is open.

const ALBUM_MOST = 100; // pictures
const ALBUM_BYTES = 50_000_000;

const answered = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const openAlbum = async () => {
  const request = indexedDB.open("text-to-image", 1);
  request.onupgradeneeded = () => {
    request.result.createObjectStore("pictures", { keyPath: "id" });
    request.result.createObjectStore("files");
  };
  const database = await answered(request);
  database.onversionchange = () => database.close();
  return database;
};

const album = (() => {
  const held = new Map(); // id: { picture, file }, where the browser keeps nothing
  let isKept = true;
  const opened = openAlbum().catch(() => ((isKept = false), null));

  const change = async (work) => {
    const transaction = (await opened).transaction(["pictures", "files"], "readwrite");
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
    work(transaction.objectStore("pictures"), transaction.objectStore("files"));
    await ended;
  };
  const read = async (store) => (await opened).transaction(store).objectStore(store);

  return {
    isKept: async () => (await opened, isKept),
    // The newest first; those that were drawn at once in the order of their seeds.
    all: async () => {
      const stored = (await opened) ? await answered((await read("pictures")).getAll()) : [];
      const loose = [...held.values()].map(({ picture }) => picture);
      return [...stored, ...loose].sort((one, other) => other.at - one.at || (one.set?.place ?? 0) - (other.set?.place ?? 0));
    },
    file: async (id) => held.get(id)?.file ?? ((await opened) ? answered((await read("files")).get(id)) : undefined),
    put: async (picture, file) => {
      try {
        await change((pictures, files) => (pictures.put(picture), files.put(file, picture.id)));
      } catch {
        isKept = false; // no storage, or a full one
        held.set(picture.id, { picture, file });
      }
    },
    remove: async (ids) => {
      for (const id of ids) held.delete(id);
      if (await opened) await change((pictures, files) => ids.forEach((id) => (pictures.delete(id), files.delete(id))));
    },
  };
})();

// The ids of the oldest pictures that are too many, or too large together.
const tooOld = (pictures) => {
  let bytes = 0;
  return pictures.filter((picture, at) => ((bytes += picture.bytes), at >= ALBUM_MOST || (at > 0 && bytes > ALBUM_BYTES)))
    .map(({ id }) => id);
};
