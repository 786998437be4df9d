// What the viewer uses of TWGL, for the bundler.
export { createBufferInfoFromArrays, createProgramInfo, drawBufferInfo, setBuffersAndAttributes, setUniforms } from "twgl.js";
