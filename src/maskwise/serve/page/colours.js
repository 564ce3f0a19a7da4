// The colour of a class: the same in every picture that Maskwise draws (`class_colour` in reports/drawing.py).

const TABLE = Array.from({ length: 256 }, (_, code) => {
  for (let bit = 0; bit < 8; bit++) code = code & 1 ? (code >>> 1) ^ 0xedb88320 : code >>> 1;
  return code >>> 0;
});

function crc32(text) {
  let code = 0xffffffff;
  for (const byte of new TextEncoder().encode(text)) code = TABLE[(code ^ byte) & 255] ^ (code >>> 8);
  return (code ^ 0xffffffff) >>> 0;
}

/** Return [red, green, blue], 0 to 255. */
export function classColour(name) {
  const code = crc32(name);
  const hue = (code % 3600) / 3600, lightness = [0.45, 0.55, 0.65][Math.floor(code / 3600) % 3], saturation = 0.85;
  const high = lightness <= 0.5 ? lightness * (1 + saturation) : lightness + saturation - lightness * saturation;
  const low = 2 * lightness - high;
  const channel = (turn) => {
    const t = ((turn % 1) + 1) % 1;
    if (t < 1 / 6) return low + (high - low) * 6 * t;
    if (t < 1 / 2) return high;
    return t < 2 / 3 ? low + (high - low) * (2 / 3 - t) * 6 : low;
  };
  return [hue + 1 / 3, hue, hue - 1 / 3].map((turn) => Math.round(255 * channel(turn)));
}

export const css = ([red, green, blue], opacity = 1) => `rgb(${red} ${green} ${blue} / ${opacity})`;

/** Return black or white, whichever can be read on a colour (WCAG 2.2, contrast ratio). */
export function inkOn(colour) {
  const [red, green, blue] = colour.map((value) => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return (0.2126 * red + 0.7152 * green + 0.0722 * blue + 0.05) ** 2 > 0.0525 ? "#000" : "#fff";
}
