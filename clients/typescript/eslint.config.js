import js from "@eslint/js";
import { defineConfig } from "eslint/config";
import tseslint from "typescript-eslint";

export default defineConfig(
  { ignores: ["dist", "build", "src/gen"] },
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // Numbers are safe in template strings.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // An empty string in an option or the environment counts as absent.
      "@typescript-eslint/prefer-nullish-coalescing": "off",
    },
  },
  {
    files: ["tests/**"],
    rules: {
      // node:test awaits the promises it returns.
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", name: ["test", "suite", "describe"], package: "node:test" }] },
      ],
    },
  },
);
