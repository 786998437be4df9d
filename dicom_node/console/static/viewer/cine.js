// Frames one after another, at the speed that the image states, each as soon as it is there.

const DEFAULT_MS = 100;

export class Cine {
  /** @param show Shows a frame; its promise ends when that is done. */
  constructor(image, show, find) {
    this.image = image;
    this.show = show;
    this.isPlaying = false;
    this.number = 1;
    this.controls = find("#cine");
    this.slider = find("#frame");
    this.button = find("#play");
    this.count = find("#frame-count");
    this.speed = find("#speed");
    this.controls.hidden = image.frame_count === 1;
    this.slider.max = image.frame_count;
    this.slider.addEventListener("input", () => {
      this.pause();
      this.show(Number(this.slider.value));
    });
    this.button.addEventListener("click", () => this.toggle());
  }

  at(number) {
    this.number = number;
    this.slider.value = number;
    this.slider.setAttribute("aria-valuetext", `frame ${number} of ${this.image.frame_count}`);
    this.count.textContent = `${number} / ${this.image.frame_count}`;
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  pause() {
    this.isPlaying = false;
    this.button.textContent = "Play";
  }

  async play() {
    if (this.image.frame_count === 1) return;
    this.isPlaying = true;
    this.button.textContent = "Pause";
    let due = performance.now();
    while (this.isPlaying) {
      due += this.duration(this.number) / Number(this.speed.value);
      const next = (this.number % this.image.frame_count) + 1;
      await Promise.all([this.show(next), new Promise((resolve) => setTimeout(resolve, due - performance.now()))]);
      // A frame that came late delays those behind it: none is left out.
      due = Math.max(due, performance.now() - 1);
    }
  }

  duration(number) {
    const times = this.image.frame_ms;
    return times.length ? times[Math.min(number, times.length) - 1] : DEFAULT_MS;
  }
}
