import type { Vote } from "./run";

/**
 * Casts votes one after another, for each battle by itself. While one is on its way the newest wish
 * waits; older ones are never sent.
 *
 * @param send Resolves when the server has stored it.
 * @param told.stored Is told of each that was stored.
 * @param told.failed Is told of one that failed, if nothing newer is wished.
 * @param told.settled Is told when nothing of a battle is on its way any more.
 */
export function makeCasts<T>(
  send: (battle: string, vote: Vote) => Promise<T>,
  told: {
    stored: (result: T) => void;
    failed: (battle: string, vote: Vote, error: Error) => void;
    settled: (battle: string) => void;
  },
): (battle: string, vote: Vote) => void {
  const wishes = new Map<string, Vote>();
  const busy = new Set<string>();

  async function run(battle: string): Promise<void> {
    busy.add(battle);
    for (let vote = wishes.get(battle); vote; vote = wishes.get(battle)) {
      wishes.delete(battle);
      try {
        told.stored(await send(battle, vote));
      } catch (error) {
        if (!wishes.has(battle)) told.failed(battle, vote, error as Error);
      }
    }
    busy.delete(battle);
    told.settled(battle);
  }

  return (battle, vote) => {
    wishes.set(battle, vote);
    if (!busy.has(battle)) void run(battle);
  };
}
