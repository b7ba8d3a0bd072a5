/** The version of this package, as in package.json. It is written into every clip and vector. */
export const VERSION = "0.1.0";
