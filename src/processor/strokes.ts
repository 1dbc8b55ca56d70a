/**
 * Letters drawn with a pen: printable ASCII as lines, for machines that have no fonts. Made for this package; legible from 8 pixels of
 * capital height on. Other letters lose their accents, or become a box.
 */

/** Pixels, or units of a letter's grid. */
export interface Writing {
  /** SVG path data of strokes, to be drawn with round caps and no fill. */
  readonly path: string;
  readonly width: number;
}

/**
 * From space to tilde. A stroke is a chain of points, each two digits: x, and y in base 16 (capitals from 0 to 8, small letters from 3,
 * tails to b). Strokes are parted by a comma, letters by a space.
 */
const letters = (
  "- 0005,0708 0002,2022 1018,3038,0343,0545 413010010314344547381807,2028 0010110100,4008,3747483837 4802011021220507182845 0002 20020628 00222608 " +
  "2125,0244,4204 2226,0444 1709 0434 0708 4008 103041473818070110,1632 022028,0848 01103041430848 0110304143344547381807,1434 38300545 " +
  "400003334447381807 413010010718384745341405 004018 103041433414030110,143445473818070514 433414030110304147381807 0304,0708 1314,1709 410447 0343,0545 014407 " +
  "01103041432526,2728 473818070110304145252343 082048,1535 08003041433404,3445473808 4130100107183847 08002042462808 40000848,0434 400008,0434 41301001071838474424 " +
  "0008,4048,0444 0020,1018,0828 4047381807 0008,4004,1348 000848 0800244048 08004840 103041473818070110 08003041433404 103041473818070110,2548 " +
  "08003041433404,2448 413010010314344547381807 0040,2028 000718384740 002840 0018233840 0048,4008 002440,2428 00400848 20000828 0048 00202808 022042 0949 " +
  "0011 4348,4433130407183847 0008,0413334447381807 4433130407183847 4048,4433130407183847 05454433130407183847 30201118,0333 434a3b1b0a,4433130407183847 " +
  "0008,0413334448 0308,0001 131a0b,1011 0008,3306,1538 000718 0308,0413233438,3443536468 0308,0413334448 133344473818070413 030b,0413334447381807 " +
  "434b,4433130407183847 0308,052333 44331304153647381807 10172838,0333 0307183847,4348 032843 0318243843 0348,4308 0328,431b 03430848 302011130415172838 000a 001021233425271808 05143544"
).split(" ");
const unknown = "0040480800";
/** Units between letters, and of a space. */
const GAP = 2, SPACE = 2;
/** Height of a line: capitals, tails, and one unit of air above and below. */
export const LINE_HEIGHT = 13;

/** The letters that can be drawn: accents go, the rest outside of ASCII becomes the box. */
function plain(text: string): string[] {
  return [...text.normalize("NFKD").replace(/\p{M}/gu, "").replace(/\s+/gu, " ")];
}

function strokes(letter: string): string {
  if (letter === " ") return "";
  return letter > " " && letter <= "~" ? letters[letter.charCodeAt(0) - 32] : unknown;
}

function widthOf(letter: string): number {
  if (letter === " ") return SPACE;
  let width = 0;
  for (const stroke of strokes(letter).split(",")) for (let i = 0; i < stroke.length; i += 2) width = Math.max(width, Number(stroke[i]));
  return width;
}

/**
 * Writes a line.
 *
 * @param x left edge of the first letter
 * @param y top of the capitals
 * @param unit size of a unit; capitals are 8 units high
 * @param most longest line; what is longer ends in "..."
 */
export function write(text: string, x: number, y: number, unit: number, most = Infinity): Writing {
  const all = plain(text);
  const length = (line: string[]): number => line.reduce((sum, letter) => sum + (widthOf(letter) + GAP) * unit, 0) - GAP * unit;
  let line = all;
  while (line.length > 3 && length(line) > most) line = [...line.slice(0, line.length - (line === all ? 1 : 4)), ".", ".", "."];
  let path = "", at = x;
  const number = (value: number): string => String(Math.round(value * 100) / 100);
  for (const letter of line) {
    for (const stroke of strokes(letter).split(",")) {
      for (let i = 0; i < stroke.length; i += 2) {
        path += `${i === 0 ? "M" : "L"}${number(at + Number(stroke[i]) * unit)} ${number(y + Number.parseInt(stroke[i + 1], 16) * unit)}`;
      }
    }
    at += (widthOf(letter) + GAP) * unit;
  }
  return { path, width: Math.max(0, at - x - GAP * unit) };
}
