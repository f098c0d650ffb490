"""Where a run's numbers go: Weights & Biases (offline unless asked), and a CSV file that survives a resume."""

from __future__ import annotations

import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

from train.command.escaping import for_shell
from train.command.files import write_atomic
from train.command.provenance import commit, git, redact
from train.command.run_files import RunFiles
from train.command.wandb_config import Mode, WandbConfig, chosen_mode, project_of, reason_of, refusal_of
from train.evaluation.frontiers import aups
from train.evaluation.headline import headline
from train.evaluation.records import Record, read_outcomes
from train.tracking.artifacts import allowed_name, policy_artifact, without_others
from train.tracking.history import STEP


class Tracker:
    """One run on Weights & Biases; everything is a no-op when disabled.

    A context: left by an exception, the run ends as failed, with what was logged. Once begun, W&B can't end a run: what
    fails is a warning, and nothing more is sent.

    The run's page has the console, the system's statistics and the commit besides. W&B's own files (logs, cache, copies
    of artifacts) lie in the run's folder, unless ``WANDB_DIR``, ``WANDB_DATA_DIR`` and so on say otherwise; the copies
    are found by their path, so an offline run is to be sent from where it was made.

    Args:
        config: the wandb section of the configuration.
        folder: the run's folder; wandb's files and the run's id go there.
        settings: the resolved configuration, logged with the run.
        job_type: "train", "evaluate", ... unless the configuration or the environment says otherwise.
        default_mode: likewise.

    Raises:
        UserError: if wandb can't start although a mode was asked for: no login, no network, a setting or a variable
            that it refuses.
    """

    def __init__(
        self,
        config: WandbConfig,
        folder: Path,
        settings: Mapping[str, Any],
        job_type: str,
        default_mode: Mode = "offline",
    ) -> None:
        import wandb

        self._wandb = wandb
        self.folder = folder
        self.failure = ""
        self._is_closed = False
        for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
            del os.environ[name]  # W&B itself takes an empty one for a value
        mode = chosen_mode(config, default_mode)
        id_file = RunFiles(folder).wandb_id
        made = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        run_id = id_file.read_text().strip() if id_file.is_file() else made
        self._borrowed = [] if mode == "disabled" else _keep_files_in(folder / "wandb")

        def start(mode: Mode) -> Any:
            return wandb.init(
                project=project_of(config),
                entity=config.entity,  # wandb reads WANDB_ENTITY, WANDB_RUN_GROUP and WANDB_TAGS where these are None
                group=config.group,
                tags=config.tags or None,
                name=config.name or os.environ.get("WANDB_NAME") or folder.resolve().name,
                job_type=config.job_type or os.environ.get("WANDB_JOB_TYPE") or job_type,
                dir=None if os.environ.get("WANDB_DIR") else folder,
                config=dict(settings),
                mode=mode,
                id=run_id,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True, console="wrap", **_git()),
            )

        try:
            self.run = start(mode)
        except (wandb.Error, OSError, ValueError) as error:
            if config.mode or os.environ.get("WANDB_MODE"):
                self._give_back()
                raise refusal_of(mode, error) from error
            # Nobody asked for it.
            self._warn("starting", error)
            self.run = start("disabled")
        if self.run.disabled:
            return
        write_atomic(id_file, run_id + "\n")
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)
        # Beside the last value: what the policy once reached says whether training went too far.
        self.run.define_metric("rollout/score", step_metric=STEP, summary="last,max")
        self.run.define_metric("rollout/nfe", step_metric=STEP, summary="last,min")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close(0 if error is None else 1)

    @property
    def place(self) -> str:
        """Where the run is, for people: its address, or how to send it."""
        if self.run.disabled:
            return f"failed: {self.failure}" if self.failure else "disabled"
        send = f"wandb sync {for_shell(str(Path(self.run.dir).parent))}"
        place = f"offline; send it with: {send}" if self.run.offline else f"online, {self.run.url}"
        return f"{place} (incomplete: {self.failure})" if self.failure else place

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log numbers; they must hold `STEP`."""
        self._try("logging", lambda: self.run.log(dict(metrics)))

    def log_again(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the rows of ``progress.csv`` that a resumed run keeps, where W&B's new run doesn't have them.

        Offline each start writes a folder of its own, numbered from step 0; sent together they would overwrite each
        other. So the last one holds the whole history, and those before it are moved to ``wandb/before_resuming``.
        """
        if self.run.disabled or self.run.resumed:
            return
        for row in rows:
            self.log({name: float(value) for name, value in row.items() if value not in ("", None)})
        self._try("putting the folders of earlier starts away", self._put_earlier_away)

    def _put_earlier_away(self) -> None:
        own = Path(self.run.dir).parent
        for folder in own.parent.glob(f"*run-*-{self.run.id}*"):
            # The id ends the name, but for the number of a second start within one second.
            if folder != own and re.search(rf"-{self.run.id}(-\d+)?$", folder.name):
                place = own.parent / "before_resuming" / folder.name
                place.parent.mkdir(exist_ok=True)
                folder.rename(place)

    def finish(self, records: Sequence[Record], plot: Path, *policies: Path) -> None:
        """Log an evaluation, its plot and the exported policies, and close the run.

        Args:
            records: of ``evaluation.json``.
            plot: a PNG file.
            *policies: folders that `policies.save` wrote.
        """
        if not self.run.disabled:
            self._try("logging the results", lambda: self._log_results(records, plot, policies))
        self._close(0)

    def _log_results(self, records: Sequence[Record], plot: Path, policies: Sequence[Path]) -> None:
        outcomes = read_outcomes(self.folder)
        # Some records have more to say than others.
        columns = list(dict.fromkeys(chain.from_iterable(records)))
        rows = [_cells(record, columns) for record in records]
        self.run.log({"evaluation": self._wandb.Table(columns=columns, data=rows)})
        self.run.log({"pareto": self._wandb.Image(str(plot))})
        self.run.summary.update({f"eval/{name}": value for name, value in headline(records, outcomes).items()})
        for (block, family, decision), area in aups(records).items():
            self.run.summary.update({f"eval/{decision}/block{block}/aup/{family}": area})
        for file in filter(Path.is_file, files_along(self.folder)):
            # A copy, because wandb would leave a link, and a run is often moved before it is synced.
            shutil.copyfile(file, Path(self.run.dir) / file.name)
            # No pattern: a folder's own name may look like one.
            self.run.save(f"{self.run.dir}/{file.name}", base_path=self.run.dir, policy="now", glob=False)
        for policy in policies:
            own = records if len(policies) == 1 else without_others(records, policy.name)
            aliases = ["latest", allowed_name(self.run.name)]
            self.run.log_artifact(policy_artifact(policy, own, outcomes), aliases=aliases)

    def abandon(self) -> None:
        """Close the run after a failure; what was logged is kept."""
        self._close(1)

    def _close(self, status: int) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        try:
            # Also after a failure: it may not have been the last word.
            self.run.finish(exit_code=status)
        except Exception as error:
            self._warn("finishing", error)
        self._give_back()

    def _try(self, doing: str, act: Callable[[], object]) -> None:
        """Do what W&B may fail at; W&B raises anything from `CommError` to `AssertionError`."""
        if self.failure:
            return
        try:
            act()
        except Exception as error:
            self._warn(doing, error)

    def _warn(self, doing: str, error: Exception) -> None:
        if not self.failure:
            self.failure = reason_of(error)
            print(f"warning: W&B failed while {doing} ({self.failure}); the run goes on without it", file=sys.stderr)

    def _give_back(self) -> None:
        for name in self._borrowed:
            os.environ.pop(name, None)
        self._borrowed = []


def _cells(record: Record, columns: Sequence[str]) -> list[Any]:
    """Return a record's row in a table of W&B, whose cells hold no lists."""
    values = [record.get(name) for name in columns]
    return [str(value) if isinstance(value, list) else value for value in values]


def _keep_files_in(folder: Path) -> list[str]:
    """Point W&B's variables for its own files to a folder, as far as the user hasn't.

    Returns:
        The variables that were set.
    """
    places = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}
    # `wandb login --host` keeps the address of the user's server there.
    if not os.path.isfile(os.path.expanduser("~/.config/wandb/settings")):
        places["WANDB_CONFIG_DIR"] = "config"
    chosen = {name: str((folder / place).resolve()) for name, place in places.items() if not os.environ.get(name)}
    os.environ.update(chosen)
    return list(chosen)


def _git() -> dict[str, Any]:
    """Return W&B's settings for git: commit and origin of this code, without what hasn't been committed."""
    found = commit().removesuffix("-dirty")
    if found == "unknown":
        return {"disable_git": True}
    return {"git_commit": git("rev-parse", "HEAD"), "git_remote_url": redact(git("config", "remote.origin.url"))}


def files_along(folder: Path) -> list[Path]:
    """Return a run's files that go along, so that `train.comparison.wandb_runs` can read the run back."""
    files = RunFiles(folder)
    return [files.evaluation, files.outcomes, files.versions, files.report]
