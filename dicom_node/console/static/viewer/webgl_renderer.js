// Draws planes by a graphics processor: 16-bit integer textures, so that no value is rounded before its grey is looked up.
import { isPlain, levelFor } from "./view.js";

const VERTICES = `#version 300 es
in vec2 position;
void main() { gl_Position = vec4(position, 0, 1); }`;

const FRAGMENTS = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D image;
uniform sampler2D greys;
uniform vec2 middle, scale, whole, pane;
uniform int level;
uniform bool smoothly;
out vec4 colour;
float value(ivec2 at, ivec2 last) { return float(texelFetch(image, clamp(at, ivec2(0), last), level).r); }
void main() {
  vec2 at = middle + (vec2(gl_FragCoord.x, pane.y - gl_FragCoord.y) - pane / 2.0) / scale;
  if (any(lessThan(at, vec2(0))) || any(greaterThanEqual(at, whole))) { colour = vec4(0, 0, 0, 1); return; }
  ivec2 last = textureSize(image, level) - 1;
  vec2 here = at / float(1 << level);
  float found;
  if (smoothly) {
    here = clamp(here - 0.5, vec2(0), vec2(last));
    ivec2 i = ivec2(here);
    vec2 part = here - vec2(i);
    found = floor(mix(mix(value(i, last), value(i + ivec2(1, 0), last), part.x),
                      mix(value(i + ivec2(0, 1), last), value(i + 1, last), part.x), part.y) + 0.5);
  } else {
    found = value(ivec2(here), last);
  }
  int index = int(found);
  colour = vec4(vec3(texelFetch(greys, ivec2(index & 255, index >> 8), 0).r), 1);
}`;

/** Textures kept for a pane: before and after of this frame and of the next. */
const TEXTURES = 4;

export class WebglRenderer {
  /** Throws where the browser can't, or where only its processor would do it. */
  constructor(canvas, twgl, evenSlow) {
    this.canvas = canvas;
    this.twgl = twgl;
    const gl = canvas.getContext("webgl2", {
      alpha: false, antialias: false, depth: false, failIfMajorPerformanceCaveat: !evenSlow, preserveDrawingBuffer: true,
    });
    if (!gl) throw new Error("no WebGL 2 by hardware");
    this.gl = gl;
    this.program = twgl.createProgramInfo(gl, [VERTICES, FRAGMENTS]);
    if (!this.program) throw new Error("the shaders don't compile");
    this.corners = twgl.createBufferInfoFromArrays(gl, { position: { numComponents: 2, data: [-1, -1, 3, -1, -1, 3] } });
    this.textures = new Map();
    this.greys = this.texture();
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  }

  /** Tell whether an image fits. */
  takes(image) {
    return Math.max(image.rows, image.columns) <= this.gl.getParameter(this.gl.MAX_TEXTURE_SIZE);
  }

  draw(layers, view, { squares }) {
    const { gl, twgl } = this, { width, height } = this.canvas;
    gl.viewport(0, 0, width, height);
    gl.enable(gl.SCISSOR_TEST);
    gl.useProgram(this.program.program);
    twgl.setBuffersAndAttributes(gl, this.program, this.corners);
    for (const { plane, table, from, to } of layers) {
      const image = this.textureOf(plane);
      gl.activeTexture(gl.TEXTURE0);
      gl.bindTexture(gl.TEXTURE_2D, this.greys);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, 256, 256, 0, gl.RED, gl.UNSIGNED_BYTE, table);
      const level = levelFor(view, plane.levels.length);
      twgl.setUniforms(this.program, {
        image,
        greys: this.greys,
        middle: [view.x, view.y],
        scale: [view.scale, view.scale * view.aspect],
        whole: [view.columns, view.rows],
        pane: [width, height],
        level,
        smoothly: !(level === 0 && isPlain(view, squares)),
      });
      gl.scissor(from, 0, to - from, height);
      twgl.drawBufferInfo(gl, this.corners);
    }
  }

  textureOf(plane) {
    const { gl } = this;
    let texture = this.textures.get(plane);
    if (texture) {
      this.textures.delete(plane);
    } else {
      for (const [oldest, unused] of this.textures) {
        if (this.textures.size < TEXTURES) break;
        this.textures.delete(oldest);
        gl.deleteTexture(unused);
      }
      texture = this.texture();
      const [whole] = plane.levels;
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST_MIPMAP_NEAREST);
      gl.texStorage2D(gl.TEXTURE_2D, plane.levels.length, gl.R16UI, whole.columns, whole.rows);
      plane.levels.forEach(({ data, columns, rows }, level) => {
        gl.texSubImage2D(gl.TEXTURE_2D, level, 0, 0, columns, rows, gl.RED_INTEGER, gl.UNSIGNED_SHORT, data);
      });
    }
    this.textures.set(plane, texture);
    return texture;
  }

  texture() {
    const { gl } = this, texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const [name, value] of [
      [gl.TEXTURE_MIN_FILTER, gl.NEAREST], [gl.TEXTURE_MAG_FILTER, gl.NEAREST],
      [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE],
    ]) gl.texParameteri(gl.TEXTURE_2D, name, value);
    return texture;
  }
}
