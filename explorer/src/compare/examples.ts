export const TASKS = [
  "chat",
  "writing",
  "code",
  "reasoning",
  "summary",
  "extraction",
  "translation",
];

/** The tasks to choose from; one that is chosen and none of them, as of a stored battle, too. */
export function tasksWith(chosen: string): string[] {
  return chosen === "" || TASKS.includes(chosen) ? TASKS : [chosen, ...TASKS];
}

/** Prompts to begin with, by task. */
export const EXAMPLES: readonly { task: string; prompts: readonly string[] }[] = [
  {
    task: "chat",
    prompts: [
      "Why do birds sing at dawn?",
      "Explain to a ten-year-old what a language model does, in five sentences.",
    ],
  },
  {
    task: "writing",
    prompts: [
      "Write a polite mail that declines a meeting and proposes another day.",
      "Write a product text of 80 words for a quiet mechanical keyboard.",
    ],
  },
  {
    task: "code",
    prompts: [
      "Write a Python function that merges overlapping intervals, with tests.",
      "What is wrong with `if x = 3:` in Python, and how is it written correctly?",
    ],
  },
  {
    task: "reasoning",
    prompts: [
      "A bat and a ball cost 1.10 together. The bat costs 1.00 more than the ball. What does the ball cost? Show each step.",
      "Three switches outside a closed room, one lamp inside; you may go in once. How do you find its switch?",
    ],
  },
  {
    task: "summary",
    prompts: [
      "Summarise in three points: Honey bees tell each other where food is by a dance. Its angle to the vertical is the direction relative to the sun, its length the distance. Other bees follow the dancer in the dark hive and feel its movements.",
    ],
  },
  {
    task: "extraction",
    prompts: [
      'Answer with JSON only, fields "name", "date" and "amount": Invoice of 3 May 2026. Wren & Sons ask for 1,240.50 euros.',
    ],
  },
  {
    task: "translation",
    prompts: [
      "Translate into German, French and Spanish: The early bird catches the worm, but the second mouse gets the cheese.",
    ],
  },
];
