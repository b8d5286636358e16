"""The watcher: looks, claims a slide, predicts it, notes what became of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pathgene_rt.batch import BatchModel, SlideResult, attempt, predict_many
from pathgene_rt.cancellation import CancellationToken
from pathgene_rt.cases.places import ResultPlaces
from pathgene_rt.errors import (
    BatchError,
    CancelledError,
    FileAccessError,
    OutputError,
    PathGeneError,
    SlideReadError,
    UsageError,
)
from pathgene_rt.files import reason, remove_unfinished, writable_folder, write_json
from pathgene_rt.locks import sole_writer
from pathgene_rt.options import PredictOptions
from pathgene_rt.report.report import utc_now
from pathgene_rt.watch.arrivals import Arrived, look_at, require_opens
from pathgene_rt.watch.hooks import run_hook
from pathgene_rt.watch.inbox import FAILED_FOLDER, Inbox, failure_file
from pathgene_rt.watch.ledger import Entry, Ledger
from pathgene_rt.watch.parts import SlideParts
from pathgene_rt.watch.service import ServiceNotifier
from pathgene_rt.watch.settings import WatchSettings
from pathgene_rt.watch.verdicts import MAX_CRASHES, verdict

CLAIMS_FOLDER = ".claims"
_SEEN_EVERY_S = 20.0
_HOOK_TRIES = 5
_HOOK_AGAIN_S = 60.0

Log = Callable[..., None]
"""Called with an event's name and its facts by keyword."""


class Watcher:
    """Predicts the slides of ``inbox`` into ``out`` as they come, by ``model``, each once.

    Any number of watchers may share inbox and out, on this machine and others. What became of each
    slide is in ``watch.sqlite`` in out; reasons of those that failed are in ``failed/``: a slide
    whose file there is removed is tried again. Results are those of
    :func:`~pathgene_rt.batch.predict_many`.

    Raises UsageError where options do not go together, OutputError where ``out`` cannot be written.
    """

    def __init__(
        self,
        model: BatchModel,
        inbox: Path,
        out: Path,
        options: PredictOptions | None = None,
        settings: WatchSettings | None = None,
        *,
        log: Log | None = None,
        service: ServiceNotifier | None = None,
    ) -> None:
        options = options or PredictOptions()
        self._settings = settings or WatchSettings()
        if options.pseudonyms is not None and not options.pseudonyms.lasting:
            raise UsageError("watch with pseudonyms needs the site's key: give --pseudonym-key")
        if options.coords is not None and not options.coords.is_dir():
            raise UsageError("watch takes a folder of coordinates; --coords names a file")
        if out.resolve() == inbox.resolve():
            raise UsageError("results would lie among the slides; choose another --out")
        self._model = model
        self._out = writable_folder(out)
        self._options = replace(options, resume=True)
        self._log: Log = log or (lambda *_, **__: None)
        self._service = service or ServiceNotifier({})
        self._claims = writable_folder(out / CLAIMS_FOLDER)
        self.ledger = Ledger(out)
        self._inbox = Inbox(inbox, out, self.ledger, self._settings, options.pseudonyms)
        self._watched = str(inbox)
        self._troubles: dict[str, str] = {}
        self._seen_at = 0.0

    def run(self, token: CancellationToken) -> None:
        """Watch until ``token`` is cancelled; a slide that is under way is given up, and goes on
        where it was when a watcher runs again. Raises UsageError, BundleError."""
        self._log("started", inbox=self._watched, bundle=self._model.bundle.sha256)
        try:
            with self._bearing("out"):
                self._tidy_claims()
            while not token.cancelled:
                if not self.turn(token):
                    self._service.status("waiting for slides")
                    _wait(token, self._settings.poll_s)
        finally:
            with self._bearing("out"):
                self.ledger.left()
            self._log("stopped")

    def turn(self, token: CancellationToken) -> bool:
        """Look once, and predict the first slide that is to be predicted now; False if there is
        none. Trouble with the folders is logged and may pass. Raises UsageError, BundleError."""
        self._service.alive()
        with self._bearing("out"):
            self._tell_seen("looking")
            self._run_hooks(token)
            if self._disk_is_low():
                return False
            due = self._inbox.due()
            self._trouble("inbox", self._inbox.missing)
            for arrived, file in due:
                if token.cancelled:
                    return False
                if self._attempt(arrived, file, token):
                    return True
        return False

    def _attempt(self, arrived: Arrived, file: str, token: CancellationToken) -> bool:
        """Predict one slide unless another watcher has it; whether it was tried."""
        slide, ids = arrived.path, self._inbox.ids(arrived.path)
        shown = self.ledger.enter(file, ids, arrived.signature).slide_id
        places = ResultPlaces(self._out, self._options.pseudonyms, {slide: ids[shown]})
        with self._claim(shown) as claimed:
            if not claimed:
                return False
            entry = self.ledger.enter(file, ids, arrived.signature)
            if not self._inbox.is_open(entry, arrived, time.time()):
                return False
            if look_at(slide, SlideParts()) != arrived:
                return False  # it is still being written, after all
            self._predict(arrived, self.ledger.begin(file), places, token)
        return True

    def _tidy_claims(self) -> None:
        """Remove the empty files of locks that killed watchers held."""
        for path in self._claims.glob(".*.lock"):
            with self._claim(path.name[1 : -len(".lock")]):
                pass

    @contextmanager
    def _claim(self, shown: str) -> Iterator[bool]:
        """Whether the slide is this watcher's while the block runs, and nobody else's."""
        with ExitStack() as stack:
            try:
                stack.enter_context(sole_writer(self._claims / shown))
            except FileAccessError:
                yield False
                return
            yield True

    def _predict(
        self, arrived: Arrived, entry: Entry, places: ResultPlaces, token: CancellationToken
    ) -> None:
        slide, name = arrived.path, places.slide_name(arrived.path)
        self._tell_seen(f"predicting {name}", now=True)
        if entry.crashes >= MAX_CRASHES:
            self._fail(entry, name, BatchError(f"{entry.crashes} runs of it ended their process"))
            return
        self._log("begun", slide=name, tries=entry.tries)
        began = time.monotonic()
        try:
            result = self._result(slide, entry, places, token)
        except (CancelledError, KeyboardInterrupt, OutputError) as error:
            # Stopped, or the disk of results is full or gone: the slide has no part in it.
            self.ledger.put_back(entry.file)
            self._log("given up", slide=name, reason=str(error) or "this watcher was stopped")
            if isinstance(error, CancelledError):
                return
            raise
        now = look_at(slide, SlideParts())
        if now is not None and now.signature != arrived.signature:
            self.ledger.put_back(entry.file)
            self._log("changed", slide=name, reason="its files changed meanwhile; it is done again")
        elif isinstance(result, PathGeneError):
            self._failed(entry, name, result)
        else:
            failure = failure_file(self._out, entry.slide_id)
            failure.unlink(missing_ok=True)
            remove_unfinished(failure)
            self.ledger.done(entry.file, hook=bool(self._settings.on_done))
            self._log(
                result.outcome,
                slide=name,
                folder=str(result.folder),
                seconds=round(time.monotonic() - began, 1),
            )

    def _result(
        self, slide: Path, entry: Entry, places: ResultPlaces, token: CancellationToken
    ) -> SlideResult | PathGeneError:
        hidden, name = self._options.pseudonyms, places.slide_name(slide)
        conceal = None if hidden is None else (lambda text: hidden.conceal(text, slide))
        closed = attempt(lambda: require_opens(slide, self._options), name, conceal)
        young = time.time() - (entry.first_try or 0.0) < self._settings.give_up_s
        if closed is not None and young:
            # Its copy may still go on. In the end it is predicted as it is, which says what it
            # lacks: a few damaged tiles are no failure.
            return SlideReadError(str(closed))
        results = predict_many(
            self._model,
            [slide],
            self._out,
            self._options,
            ids=places.ids,
            overwrite=entry.renewed,
            token=token,
            progress=lambda *_: self._service.alive(),
            note=lambda text: self._log("note", text=text),
        )
        (result,) = results
        assert isinstance(result, SlideResult)  # there are no cases
        return result if result.error is None else result.error

    def _failed(self, entry: Entry, name: str, error: PathGeneError) -> None:
        now = time.time()
        tried_s = now - (entry.first_try or now)
        again = verdict(error, entry.tries, tried_s, self._settings.give_up_s)
        if again.after_s is None:
            self._fail(entry, name, error)
            return
        self.ledger.again(entry.file, now + again.after_s, error.code, str(error))
        self._log(
            "retry", level="warning", slide=name, reason=str(error), after_seconds=again.after_s
        )

    def _fail(self, entry: Entry, name: str, error: PathGeneError) -> None:
        """The file is written first: a failure that the ledger knows has its reason there."""
        document = {
            "slide": name,
            "reason": str(error),
            "code": error.code,
            "exit_code": error.exit_code,
            "tries": entry.tries,
            "time": utc_now(),
        }
        writable_folder(self._out / FAILED_FOLDER)
        target = failure_file(self._out, entry.slide_id)
        remove_unfinished(target)  # of a watcher that was killed here
        write_json(target, document)
        self.ledger.failed(entry.file, error.code, str(error))
        self._log("failed", level="error", slide=name, reason=str(error), code=error.code)

    def _run_hooks(self, token: CancellationToken) -> None:
        """The command for results that have not had it; the claim is held meanwhile."""
        command = self._settings.on_done
        for entry in self.ledger.hooks_due(time.time()) if command else ():
            if token.cancelled:
                return
            with self._claim(entry.slide_id) as claimed:
                fresh = self.ledger.entry(entry.file) if claimed else None
                if fresh is not None and fresh.hook_due and fresh.hook_next <= time.time():
                    self._run_hook(command, fresh)

    def _run_hook(self, command: tuple[str, ...], entry: Entry) -> None:
        self._service.alive()
        folder = self._out / entry.slide_id
        failed = run_hook(command, folder, self._settings.hook_timeout_s)
        again = bool(failed) and entry.hook_tries + 1 < _HOOK_TRIES
        after_s = _HOOK_AGAIN_S * 2**entry.hook_tries
        self.ledger.hook_ended(entry.file, due=again, next_try=time.time() + after_s)
        if failed:
            told = {"reason": failed, "again": again}
            self._log("on-done failed", level="error", slide=entry.slide_id, **told)
        else:
            self._log("on-done", slide=entry.slide_id)

    def _disk_is_low(self) -> bool:
        try:
            free = shutil.disk_usage(self._out).free
        except OSError as error:
            raise OutputError(f"cannot look at the disk of {self._out}: {reason(error)}") from error
        low = free < self._settings.min_free_bytes
        text = f"{free / 1e9:.1f} GB are free, fewer than --min-free: waiting for space"
        self._trouble("disk", text if low else "")
        return low

    def _trouble(self, of: str, text: str) -> None:
        """Log once that something is wrong, and once that it is over."""
        if bool(self._troubles.get(of)) == bool(text):
            return
        self._troubles[of] = text
        if text:
            self._log("paused", level="warning", reason=text)
            self._service.status(f"paused: {text}")
        else:
            self._log("goes on", of=of)

    @contextmanager
    def _bearing(self, of: str) -> Iterator[None]:
        """Where the folder of results cannot be written, it may be back later."""
        try:
            yield
        except (OutputError, FileAccessError) as error:
            self._trouble(of, str(error))
        else:
            self._trouble(of, "")

    def _tell_seen(self, doing: str, *, now: bool = False) -> None:
        """In the ledger, now and then, and to systemd."""
        self._service.status(doing)
        if now or time.monotonic() - self._seen_at > _SEEN_EVERY_S:
            self._seen_at = time.monotonic()
            self.ledger.seen(doing)


def _wait(token: CancellationToken, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not token.cancelled and (left := end - time.monotonic()) > 0:
        time.sleep(min(0.2, left))
