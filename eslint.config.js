import js from "@eslint/js";
import tseslint from "typescript-eslint";

const NODE_GLOBALS = ["AbortController", "Buffer", "URL", "console", "performance", "process", "setTimeout"];

export default tseslint.config(
  { ignores: ["dist", "node_modules", "test/fixtures", "out", "docs/api", "tools/**"] },
  js.configs.recommended,
  {
    files: ["**/*.js", "**/*.mjs"],
    languageOptions: { globals: Object.fromEntries(NODE_GLOBALS.map((name) => [name, "readonly"])) },
  },
  {
    files: ["**/*.ts"],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      "@typescript-eslint/no-confusing-void-expression": [
        "error",
        { ignoreArrowShorthand: true, ignoreVoidReturningFunctions: true },
      ],
      "@typescript-eslint/require-await": "off",
    },
  },
);
