"""The training loop: schedule, validation by source, a log that plots read, and checkpoints to resume from."""

import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import optimizer
from data import Windows
from model import Model, Shape


@dataclass(frozen=True)
class Run:
    """What a run does. The twins of a model differ from it in their shape alone."""

    tokens: int = 9_600_000
    tokens_per_step: int = 8192
    sequences: int = 16
    """Sequences of `length` tokens that go through the model at once."""
    length: int = 256
    phases: tuple[int, ...] = (4_500_000, 5_640_000, 7_995_392, 8_593_408, 9_093_120)
    """The tokens from which on sources have their next shares; after the first, answers of sums count more."""
    long_from: float = 0.8
    """From this share of the run on, windows are as long as the model's context."""
    learning_rate: float = 5e-3
    warm_up: float = 0.02
    decay: float = 0.35
    """The last share of the run, over which the learning rate falls to zero; constant before."""
    weight_decay: float = 0.1
    balance: float = 0.01
    z: float = 1e-4
    seed: int = 1
    log_every: int = 20
    validate_every: int = 150
    save_minutes: float = 3.0

    @property
    def steps(self) -> int:
        return self.tokens // self.tokens_per_step

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, constant, linear decay to zero."""
        done = step / self.steps
        return self.learning_rate * max(1e-3, min(1.0, done / self.warm_up, (1 - done) / self.decay))


class Checkpoint:
    """State on disk, replaced in one rename: whenever the run is killed, the last whole state is there."""

    def __init__(self, directory: Path):
        self.path, self.log = directory / "checkpoint.pt", directory / "log.jsonl"

    def save(self, model, optimizers, progress: dict) -> None:
        state = dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], progress=progress)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def load(self, model, optimizers, device) -> dict:
        if not self.path.exists():
            self.log.unlink(missing_ok=True)
            return dict(step=0, seconds=0.0)
        state = torch.load(self.path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        for o, saved in zip(optimizers, state["optimizers"]):
            o.load_state_dict(saved)
        self._forget_after(state["progress"]["step"])
        return state["progress"]

    def _forget_after(self, step: int) -> None:
        """Drops log lines of steps that were done after the checkpoint and will be done again."""
        if self.log.exists():
            kept = [line for line in self.log.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.log.write_text("".join(line + "\n" for line in kept))

    def write(self, **entry) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(json.dumps(entry), flush=True)


@torch.no_grad()
def validate(model: Model, windows: Windows, device: str, count: int) -> dict[str, float]:
    """Mean loss in nats a token by source, on held-out text in windows of the model's whole context."""
    losses = {}
    for name in windows.names:
        rows = torch.from_numpy(windows.validation(name, count, model.shape.context)).to(device)
        parts = [model.loss(r[:, :-1], r[:, 1:])[0].item() * len(r) for r in rows.split(8)]
        losses[name] = round(sum(parts) / len(rows), 4)
    return losses


def one_step(model, optimizers, run: Run, windows: Windows, step: int, device: str) -> tuple[float, float]:
    """Forward, backward and update on `tokens_per_step` tokens. Returns the loss and the balance loss."""
    length = model.shape.context if step >= run.long_from * run.steps else run.length
    phase = sum(step * run.tokens_per_step >= start for start in run.phases)
    batch = windows.batch(step, run.tokens_per_step // length, length, phase)
    rows, emphasis = (torch.from_numpy(part).to(device) for part in batch)
    at_once = max(1, run.sequences * run.length // length)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    mean_loss = mean_balance = 0.0
    for part, weights in zip(rows.split(at_once), emphasis.split(at_once)):
        share = len(part) / len(rows)
        loss, balance, z = model.loss(part[:, :-1], part[:, 1:], dtype, weights)
        ((loss + run.balance * balance + run.z * z) * share).backward()
        mean_loss += loss.item() * share
        mean_balance += balance.item() * share
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for o in optimizers:
        for group in o.param_groups:
            group["lr"] = run.rate(step)
        o.step()
    model.zero_grad(set_to_none=True)
    return mean_loss, mean_balance


def train(shape: Shape, run: Run, data: Path, out: Path, device: str = "cpu") -> Model:
    """Trains until the run's last token, from `out`'s checkpoint when there is one; SIGTERM and SIGINT save first."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(run.seed)
    model = Model(shape).to(device)
    optimizers = optimizer.build(model, run.learning_rate, run.weight_decay)
    windows = Windows(data, run.seed)
    checkpoint = Checkpoint(out)
    progress = checkpoint.load(model, optimizers, device)
    (out / "run.json").write_text(json.dumps(dict(shape=asdict(shape), run=asdict(run)), indent=1) + "\n")

    asked_to_stop = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked_to_stop.append(True))
    last, saved, logged = time.time(), time.time(), (time.time(), progress["step"])
    while progress["step"] < run.steps and not asked_to_stop:
        step = progress["step"]
        loss, balance = one_step(model, optimizers, run, windows, step, device)
        now = time.time()
        progress = dict(step=step + 1, seconds=progress["seconds"] + now - last)
        last = now
        if (step + 1) % run.log_every == 0 or step + 1 == run.steps:
            speed = (step + 1 - logged[1]) * run.tokens_per_step / (now - logged[0])
            logged = (now, step + 1)
            entry = dict(step=step + 1, tokens=(step + 1) * run.tokens_per_step, seconds=round(progress["seconds"], 1))
            entry |= dict(loss=round(loss, 4), balance=round(balance, 4), rate=run.rate(step), speed=round(speed))
            checkpoint.write(**entry)
        if (step + 1) % run.validate_every == 0 or step + 1 == run.steps:
            tokens = (step + 1) * run.tokens_per_step
            checkpoint.write(step=step + 1, tokens=tokens, validation=validate(model, windows, device, 16))
        if now - saved > 60 * run.save_minutes:
            checkpoint.save(model, optimizers, progress)
            saved = now
    checkpoint.save(model, optimizers, progress)
    if asked_to_stop:
        raise SystemExit(f"stopped after step {progress['step']} of {run.steps}; the same command goes on from there")
    return model
