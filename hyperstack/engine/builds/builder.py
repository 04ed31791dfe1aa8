"""One build: its stages in order, each step taken from the cache or carried out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hyperstack.dockerfile.errors import DockerfileError, StageError
from hyperstack.dockerfile.instructions import (
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    From,
    Instruction,
    Label,
    Maintainer,
    Run,
    Workdir,
    expanded,
)
from hyperstack.dockerfile.stages import Dockerfile, Stage, parse_trigger
from hyperstack.dockerfile.words import expand
from hyperstack.engine.builds import config as configs
from hyperstack.engine.builds.arguments import PREDEFINED, Arguments
from hyperstack.engine.builds.config import Config
from hyperstack.engine.builds.copies import Copier
from hyperstack.engine.builds.request import BuildEvent, BuildRequest, BuildSink
from hyperstack.engine.builds.runner import Runner
from hyperstack.engine.images import ImageService
from hyperstack.identity.api import Principal
from hyperstack.image.api import Context, Copying, Image, NewLayer, ProgressSink, Workshop
from hyperstack.image.config import host_platform
from hyperstack.image.names import parse as parse_reference
from hyperstack.pod.errors import InvalidArgument, NotFound, RegistryError, Unauthorized

SCRATCH = "scratch"
_MAX_TRIGGERS = 256


@dataclass(kw_only=True)
class _State:
    """Where a stage stands."""

    image: str
    """Its id; empty: nothing yet."""
    config: Config
    author: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    command_set: bool = False
    """CMD stood in this stage, so that an ENTRYPOINT does not drop it."""

    @property
    def variables(self) -> dict[str, str]:
        return {**self.arguments, **configs.environment(self.config)}


class Builder:
    """Of one build; not to be used again."""

    def __init__(self, who: Principal, request: BuildRequest, dockerfile: Dockerfile, context: Context | None, *,
                 images: ImageService, workshop: Workshop, runner: Runner, copier: Copier, held: set[str],
                 tell: BuildSink, progress: ProgressSink) -> None:
        """:param held: images that this build needs, which it adds to."""
        self._who = who
        self._request = request
        self._dockerfile = dockerfile
        self._context = context
        self._images = images
        self._workshop = workshop
        self._runner = runner
        self._copier = copier
        self._held = held
        self._tell = tell
        self._progress = progress
        self._arguments = Arguments(request.arguments, request.platform or host_platform())
        self._stages: list[_State] = []
        self._donors: list[str] = []
        self._leaving: set[asyncio.Future[None]] = set()
        self._step = 0
        self._steps = dockerfile.steps + bool(request.labels)

    async def build(self) -> str:
        """The id of the image. :raise StepFailed: a command failed. :raise HyperStackError: anything else did."""
        try:
            return await self._build()
        finally:
            if self._leaving:
                await asyncio.shield(asyncio.wait(self._leaving))

    async def _build(self) -> str:
        for name in self._request.cache_from:
            with contextlib.suppress(NotFound, InvalidArgument):  # as Docker: what is not here helps nobody
                self._donors.append(self._images.get(self._who, name).id)
        self._held.update(self._donors)
        for arg in self._dockerfile.arguments:
            await self._announce(arg)
            self._arguments.declare_meta(expanded(arg, self._arguments.of_from, self._dockerfile.escape))
        for number, stage in enumerate(self._dockerfile.stages):
            await self._stage(stage, last=number == len(self._dockerfile.stages) - 1)
        if unused := self._arguments.unused:
            await self._say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
        image = self._stages[-1].image
        if not image:
            raise InvalidArgument("No image was generated. Is your Dockerfile empty?", field="dockerfile")
        return image

    # -- stages

    async def _stage(self, stage: Stage, *, last: bool) -> None:
        await self._announce(stage.origin)
        state = await self._begin(stage.origin)
        self._stages.append(state)
        await self._triggers(state)
        for instruction in stage.instructions:
            await self._announce(instruction)
            await self._dispatch(instruction, state)
        if last and self._request.labels:
            pairs = tuple(self._request.labels.items())
            label = Label(line=0, text="LABEL " + " ".join(f"{name}={value}" for name, value in pairs), pairs=pairs)
            await self._announce(label)
            await self._configure(label, state)
        if state.image:
            await self._tell(BuildEvent(image=state.image))

    async def _begin(self, origin: From) -> _State:
        variables = self._arguments.of_from
        base = _expand_base(origin, variables, self._dockerfile.escape)
        earlier = self._find(base, len(self._stages))
        if earlier is not None:
            before = self._stages[earlier]
            await self._say(f" ---> {_short(before.image)}\n")
            return _State(image=before.image, config=before.config, author=before.author)
        if base.lower() == SCRATCH:
            await self._say(" ---> \n")
            return _State(image="", config={"Env": [f"PATH={configs.DEFAULT_PATH}"]})
        platform = _expand(origin.platform, variables, self._dockerfile.escape, origin.line)
        image = await self._base(base, platform or self._request.platform)
        await self._say(f" ---> {_short(image.id)}\n")
        author = image.raw_config.get("author")
        return _State(image=image.id, config=configs.inherited(image.raw_config),
                      author=author if isinstance(author, str) else "")

    def _find(self, name: str, before: int) -> int | None:
        return self._dockerfile.find(name, before)

    async def _base(self, reference: str, platform: str) -> Image:
        """An image that a FROM or a --from names, pulled where it has to be."""
        image = None
        if not self._request.pull:
            with contextlib.suppress(NotFound):
                image = self._images.get(self._who, reference)
        if image is not None and platform and not _is_for(image, platform):
            image = None
        if image is None:
            image = await self._images.pull(self._who, reference, platform=platform,
                                            credentials=self._request.credentials.get(parse_reference(reference).host),
                                            progress=self._progress)
            if platform and not _is_for(image, platform):
                there = f"{image.os}/{image.architecture}"
                raise InvalidArgument(f"image with reference {reference} was found but its platform ({there}) does not "
                                      f"match the specified platform ({platform})", field="platform", value=platform,
                                      hint="no step could run in it")
        self._held.add(image.id)
        return image

    async def _triggers(self, state: _State) -> None:
        """What the base image's author left for whoever builds on it."""
        triggers = state.config.pop("OnBuild", None) or []
        if not triggers:
            return
        if len(triggers) > _MAX_TRIGGERS:
            raise InvalidArgument(f"the base image has more than {_MAX_TRIGGERS} build triggers", field="ONBUILD")
        await self._say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) > 1 else ''}\n")
        for trigger in triggers:
            await self._dispatch(parse_trigger(trigger), state)

    # -- steps

    async def _announce(self, instruction: Instruction) -> None:
        self._step += 1
        await self._say(f"Step {self._step}/{self._steps} : {instruction.text}")
        await self._say("\n")

    async def _dispatch(self, instruction: Instruction, state: _State) -> None:
        instruction = expanded(instruction, state.variables, self._dockerfile.escape)
        match instruction:
            case Run():
                await self._run(instruction, state)
            case Copy():
                await self._copy(instruction, state)
            case Workdir():
                await self._workdir(instruction, state)
            case Arg():
                self._arguments.declare(instruction, state.arguments)
                await self._commit(state, state.config, f"/bin/sh -c #(nop)  {instruction.text}")
            case Maintainer():
                state.author = instruction.value
                await self._commit(state, state.config, f"/bin/sh -c #(nop)  MAINTAINER {instruction.value}")
            case _:
                await self._configure(instruction, state)

    async def _configure(self, instruction: Instruction, state: _State) -> None:
        command = state.config.get("Cmd")
        config = configs.apply(instruction, state.config)
        if isinstance(instruction, Cmd):
            state.command_set = True
        elif isinstance(instruction, Entrypoint) and state.command_set and command:
            config["Cmd"] = command
        await self._commit(state, config, configs.described(instruction, config))

    async def _run(self, run: Run, state: _State) -> None:
        if not state.image:
            raise InvalidArgument("there is nothing that a RUN could run in after FROM scratch", field="RUN",
                                  hint="COPY a file system first")
        command = configs.full_command(run, state.config)
        environment = configs.environment(state.config)
        arguments = {name: value for name, value in self._arguments.of_run(state.arguments).items()
                     if name not in environment}
        told = sorted(f"{name}={value}" for name, value in arguments.items()
                      if name not in PREDEFINED or name in state.arguments)
        description = " ".join([*([f"|{len(told)}", *told] if told else []), *command])
        key = self._key(state, description, self._request.network)
        if await self._cached(state, key, state.config, description):
            return
        env = tuple(f"{name}={value}" for name, value in arguments.items())
        async with self._runner.ran(self._who, self._request, state.image, command, env, self._tell,
                                    self._leaving) as layer:
            image = await self._make(state, layer, state.config, description, key)
        await self._advance(state, image, state.config)

    async def _copy(self, copy: Copy, state: _State) -> None:
        async with self._copier.copied(copy, state.image, state.config, self._context, self._origin) as copied:
            key = self._key(state, copied.description)
            if await self._cached(state, key, state.config, copied.description):
                return
            layer = self._workshop.read(copied.layer.tar)
            image = await self._make(state, layer, state.config, copied.description, key)
        await self._advance(state, image, state.config)

    async def _origin(self, name: str) -> str:
        """The image that a --from means."""
        earlier = self._find(name, len(self._stages) - 1)
        if earlier is None:
            if name.isascii() and name.isdecimal():
                raise InvalidArgument(f"invalid from flag value {name[:60]}: index out of bounds", field="from",
                                      value=name[:60])
            try:
                return (await self._base(name, self._request.platform)).id
            except (InvalidArgument, NotFound, RegistryError, Unauthorized) as error:
                raise InvalidArgument(f"invalid from flag value {name[:200]}: {error.message}", field="from",
                                      value=name[:200], hint=error.hint) from error
        if not self._stages[earlier].image:
            raise InvalidArgument(f"the stage {name} has no files")
        return self._stages[earlier].image

    async def _workdir(self, workdir: Workdir, state: _State) -> None:
        config = configs.apply(workdir, state.config)
        description = configs.described(workdir, config)
        key = self._key(state, description)
        if await self._cached(state, key, config, description):
            return
        made = await self._workshop.compose(Copying(base=state.image, destination=config["WorkingDir"]))
        try:
            image = await self._make(state, self._workshop.read(made.tar) if made.entries else None, config,
                                     description, key)
        finally:
            self._workshop.discard(made.tar)
        await self._advance(state, image, config)

    async def _commit(self, state: _State, config: Config, description: str) -> None:
        """A step that changes the configuration alone."""
        key = self._key(state, description)
        if not await self._cached(state, key, config, description):
            await self._advance(state, await self._make(state, None, config, description, key), config)

    # -- images

    def _key(self, state: _State, description: str, *more: str) -> str:
        said = json.dumps([self._who.project, state.image, state.author, description, *more])
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()

    async def _cached(self, state: _State, key: str, config: Config, description: str) -> bool:
        """Whether the step was done before, and need not be done again."""
        if not self._request.use_cache:
            return False
        image = self._workshop.cached(key)
        for donor in self._donors if image is None else ():
            image = image or await self._workshop.step_of(donor, state.image, self._new(state, config, description),
                                                          key=key, project=self._who.project)
        if image is None:
            return False
        await self._say(" ---> Using cache\n")
        await self._advance(state, image, config)
        return True

    async def _make(self, state: _State, layer: AsyncIterator[bytes] | None, config: Config, description: str, key: str
                    ) -> str:
        return await self._workshop.step(state.image, layer, self._new(state, config, description), key=key,
                                         project=self._who.project)

    @staticmethod
    def _new(state: _State, config: Config, description: str) -> NewLayer:
        return NewLayer(run={name: value for name, value in config.items() if value}, author=state.author,
                        created_by=description)

    async def _advance(self, state: _State, image: str, config: Config) -> None:
        self._held.add(image)
        state.image, state.config = image, config
        await self._say(f" ---> {_short(image)}\n")

    async def _say(self, text: str) -> None:
        await self._tell(BuildEvent(stream=text))


def _expand(text: str, variables: dict[str, str], escape: str, line: int) -> str:
    try:
        return expand(text, variables, escape)
    except DockerfileError as error:
        raise error.at(line) from None


def _expand_base(origin: From, variables: dict[str, str], escape: str) -> str:
    base = _expand(origin.base, variables, escape, origin.line)
    if not base:
        raise StageError(f"base name ({origin.base[:60]}) should not be blank", line=origin.line)
    return base


def _is_for(image: Image, platform: str) -> bool:
    system, _, rest = platform.partition("/")
    architecture = rest.partition("/")[0] or system
    return image.architecture in ("", architecture)


def _short(image: str) -> str:
    return image.removeprefix("sha256:")[:12]
