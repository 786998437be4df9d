// The frames of one image: fetched once, kept as far as memory allows, the longest unused go first.

const BYTES_KEPT = 256 << 20;

/** One worker for both images: frames come in the order of asking. */
export class Loader {
  constructor() {
    this.worker = new Worker(new URL("./loader.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.worker.addEventListener("message", ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.key);
      this.waiting.delete(data.key);
      if (data.plane) resolve(data.plane);
      else reject(Object.assign(new Error(data.problem), { problem: data.problem }));
    });
    this.worker.addEventListener("error", () => {
      for (const { reject } of this.waiting.values()) {
        reject(Object.assign(new Error(), { problem: "The viewer's loader did not start. Load the page again." }));
      }
      this.waiting.clear();
    });
    this.count = 0;
  }

  load(url, image) {
    const key = ++this.count;
    const promise = new Promise((resolve, reject) => this.waiting.set(key, { resolve, reject }));
    this.worker.postMessage({ key, url, image });
    return { promise, abandon: () => this.worker.postMessage({ key, abandon: true }) };
  }
}

export class Frames {
  /**
   * @param image What `pair.json` says of it.
   * @param address Of its frames, which the number follows.
   */
  constructor(loader, image, address) {
    this.loader = loader;
    this.image = image;
    this.address = address;
    this.kept = new Map();
    this.coming = new Map();
  }

  /** Return a frame, from 1, if it is there. */
  at(number) {
    const plane = this.kept.get(number);
    if (plane) {
      this.kept.delete(number);
      this.kept.set(number, plane);
    }
    return plane;
  }

  /** Return a promise of a frame. */
  get(number) {
    const plane = this.at(number);
    if (plane) return Promise.resolve(plane);
    let coming = this.coming.get(number);
    if (!coming) {
      coming = this.loader.load(`${this.address}${number}?planes=true`, this.image);
      this.coming.set(number, coming);
      coming.promise = coming.promise
        .then((loaded) => this.keep(number, loaded))
        .finally(() => this.coming.delete(number));
    }
    return coming.promise;
  }

  /** Give up what is on its way, but for some frames. */
  abandonAllBut(wanted) {
    for (const [number, coming] of this.coming) if (!wanted.includes(number)) coming.abandon();
  }

  keep(number, plane) {
    this.kept.set(number, plane);
    const size = this.image.rows * this.image.columns * 2.7;
    const most = Math.max(2, Math.floor(BYTES_KEPT / size));
    for (const oldest of this.kept.keys()) {
      if (this.kept.size <= most) break;
      this.kept.delete(oldest);
    }
    return plane;
  }
}
