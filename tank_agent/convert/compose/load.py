"""Load compose files into one model: documents, `extends`, `include`, and what later files add."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from tank_agent.convert.compose.environment import EnvFile, read_environment
from tank_agent.convert.compose.files import SIZE_MAX, dot_env, read_file
from tank_agent.convert.compose.interpolate import Filling
from tank_agent.convert.compose.merge import merge, unique, without
from tank_agent.convert.compose.paths import Roots, absolute_paths
from tank_agent.convert.compose.sections import (
    entries_of,
    is_first_form,
    joined,
    nothing_at,
    sections_of,
)
from tank_agent.convert.compose.tree import KeyPath, YamlDocument, read_documents
from tank_agent.convert.model import InvalidSource, Remark, SourcePlace, Value
from tank_agent.linux.given_files import read_stdin
from tank_agent.spec.findings import show

Change = Callable[[Value], Value]

_FILES_MAX = 500
_VALUES_MAX = 1_000_000
_BYTES_MAX = 16 << 20
# Of services that extend each other, and of files that include each other.
_CHAIN_MAX = 50


class ComposeFile(Struct, frozen=True):
    """A file to load: its absolute path, its name in messages, and the place that names it."""

    path: str
    shown: str
    place: SourcePlace


class Scope(Struct, frozen=True, kw_only=True):
    """What holds for the files that are loaded together; `chain` are the files that include them."""

    roots: Roots
    known: Mapping[str, str]
    filling: Filling
    chain: tuple[ComposeFile, ...] = ()


class _Services(Struct, frozen=True):
    """The services of a file whose `extends` are followed; `done` are those where it has been."""

    file: ComposeFile
    scope: Scope
    entries: Mapping[str, Value]
    replaced: tuple[KeyPath, ...]
    done: dict[str, Value]


class Loader:
    """Loads the files of one project; `remarks` are on all of them."""

    def __init__(self, remarks: list[Remark], shown: Mapping[str, str]) -> None:
        self._remarks = remarks
        # How the user names directories, by their absolute paths.
        self._shown = shown
        self._documents: dict[str, list[YamlDocument]] = {}
        self.is_first_form = False
        self._extended: dict[tuple[str, int], _Services] = {}
        self._values_left = _VALUES_MAX
        self._bytes_left = _BYTES_MAX
        self._models_left = _FILES_MAX

    def model(self, files: Sequence[ComposeFile], scope: Scope) -> dict[str, Value]:
        """Return the sections of files that are merged, the later ones over the earlier ones.

        Raises:
            InvalidSource: a file can't be used.
        """
        self._models_left -= 1
        if self._models_left < 0 or len(scope.chain) > _CHAIN_MAX:
            raise InvalidSource(files[0].place, "include: too many files include each other")
        merged = nothing_at(files[0].shown)
        for file in files:
            for document in self.documents(file):
                sections = scope.filling.document(self._sections(document.value))
                sections = self._with_extends(sections, document, file, scope)
                merged = without(merged, document.replaced)
                sections = self._with_includes(sections, file, scope)
                merged = unique(merge(merged, Value(sections, document.value.place), ()), ())
                self._count(merged)
        merged = absolute_paths(merged, scope.roots)
        sections = merged.plain if isinstance(merged.plain, dict) else {}
        return _with_variables(sections, scope.known)

    def _sections(self, value: Value) -> dict[str, Value]:
        self.is_first_form = self.is_first_form or is_first_form(value)
        return sections_of(value, self._remarks)

    def documents(self, file: ComposeFile) -> list[YamlDocument]:
        """Return the documents of a file, which is read once.

        Raises:
            InvalidSource: it can't be read, or is no YAML.
        """
        found = self._documents.get(file.path)
        if found is None:
            if len(self._documents) >= _FILES_MAX:
                raise InvalidSource(file.place, f"the project has more than {_FILES_MAX} files")
            content = _content(file)
            self._bytes_left -= len(content)
            if self._bytes_left < 0:
                raise InvalidSource(file.place, f"the files of the project have more than {_BYTES_MAX} bytes")
            found = read_documents(content, file.shown)
            self._documents[file.path] = found
        return found

    def _named(self, path: str, place: SourcePlace, directory: str) -> ComposeFile:
        """Return a file that another one names."""
        if "://" in path or path.startswith("git@"):
            raise InvalidSource(place, f"{show(path)} is not on this machine; fetch it and name the file")
        absolute = posixpath.normpath(posixpath.join(directory, path))
        parent, name = posixpath.split(absolute)
        if parent in self._shown:
            return ComposeFile(absolute, posixpath.join(self._shown[parent], name), place)
        for above, typed in self._shown.items():
            if absolute.startswith(f"{above}/"):
                return ComposeFile(absolute, posixpath.join(typed, absolute[len(above) + 1 :]), place)
        return ComposeFile(absolute, absolute, place)

    def _count(self, value: Value) -> None:
        """Count the values of a model: files that repeat each other must not take all memory and time."""
        waiting: list[Value] = [value]
        while waiting:
            found = waiting.pop()
            self._values_left -= 1
            if self._values_left < 0:
                raise InvalidSource(found.place, "all files together have more values than a project needs")
            if isinstance(found.plain, dict):
                waiting.extend(found.plain.values())
            elif isinstance(found.plain, tuple):
                waiting.extend(found.plain)

    # extends

    def _with_extends(
        self, sections: dict[str, Value], document: YamlDocument, file: ComposeFile, scope: Scope
    ) -> dict[str, Value]:
        services = entries_of(sections, "services")
        if not services:
            return sections
        found = _Services(file, scope, services, document.replaced, {})
        extended = {name: self._service(found, name, ()) for name in services}
        return {**sections, "services": Value(extended, sections["services"].place)}

    def _service(self, services: _Services, name: str, chain: tuple[tuple[str, str], ...]) -> Value:
        """Return a service with what it extends."""
        if name in services.done:
            return services.done[name]
        service = services.entries[name]
        entries = service.plain if isinstance(service.plain, dict) else {}
        extends = entries.get("extends")
        if extends is None or extends.plain is None:
            return service
        if len(chain) >= _CHAIN_MAX:
            raise InvalidSource(
                extends.place, f"services.{name}: more than {_CHAIN_MAX} services extend each other"
            )
        step = (services.file.shown, name)
        if step in chain:
            way = " extends ".join(f"{name} of {file}" for file, name in (*chain[chain.index(step) :], step))
            raise InvalidSource(extends.place, f"extends goes in a circle: {way}")
        base_name, file_name = _extends(extends, name)
        base_services = services if file_name is None else self._services_of(file_name, services.scope)
        if base_name not in base_services.entries:
            where = base_services.file.shown
            raise InvalidSource(
                extends.place, f"services.{name}: there is no service {show(base_name)} in {where}"
            )
        base = self._service(base_services, base_name, (*chain, step))
        base = without(base, tuple(path[2:] for path in services.replaced if path[:2] == ("services", name)))
        own = Value({key: item for key, item in entries.items() if key != "extends"}, service.place)
        result = merge(base, own, ("services", name)) if isinstance(base.plain, dict) else own
        self._count(result)
        services.done[name] = result
        return result

    def _services_of(self, file_name: Value, scope: Scope) -> _Services:
        """Return the services of another file, with the paths that start there."""
        file = self._named(str(file_name.plain), file_name.place, scope.roots.directory)
        key = (file.path, id(scope.filling))
        found = self._extended.get(key)
        if found is None:
            own = Scope(
                roots=Roots(posixpath.dirname(file.path), scope.roots.home),
                known=scope.known,
                filling=scope.filling,
            )
            merged = nothing_at(file.shown)
            replaced: list[KeyPath] = []
            for document in self.documents(file):
                sections = own.filling.document(self._sections(document.value))
                merged = unique(
                    merge(without(merged, document.replaced), Value(sections, merged.place), ()), ()
                )
                replaced.extend(document.replaced)
            merged = absolute_paths(merged, own.roots)
            services = entries_of(merged.plain if isinstance(merged.plain, dict) else {}, "services")
            found = _Services(file, own, services, tuple(replaced), {})
            self._extended[key] = found
        return found

    # include

    def _with_includes(self, sections: dict[str, Value], file: ComposeFile, scope: Scope) -> dict[str, Value]:
        include = sections.pop("include", None)
        if include is None or include.plain is None:
            return sections
        if not isinstance(include.plain, tuple):
            raise InvalidSource(
                include.place, "include must be a list; write - path/of/compose.yaml below it"
            )
        for item in include.plain:
            sections = joined(sections, self._included(item, file, scope))
        return sections

    def _included(self, item: Value, by: ComposeFile, scope: Scope) -> dict[str, Value]:
        entries = item.plain if isinstance(item.plain, dict) else {"path": item}
        directory = scope.roots.directory
        files = [
            self._named(path, place, directory) for path, place in _texts(entries.get("path"), item, "path")
        ]
        if not files:
            raise InvalidSource(item.place, "include: an item needs path; write - path/of/compose.yaml")
        chain = (*scope.chain, by)
        for file in files:
            if any(file.path == other.path for other in chain):
                way = " includes ".join(each.shown for each in (*chain, file))
                raise InvalidSource(item.place, f"include goes in a circle: {way}")
        given = _texts(entries.get("project_directory"), item, "project_directory")
        own = (
            posixpath.normpath(posixpath.join(directory, given[0][0]))
            if given
            else posixpath.dirname(files[0].path)
        )
        named = _texts(entries.get("env_file"), item, "env_file")
        if not named and (found := dot_env(own)) is not None:
            named = [(found, item.place)]
        env_files = [self._named(path, place, directory) for path, place in named]
        known = read_environment(
            [EnvFile(file.path, file.shown, file.place) for file in env_files], scope.known, self._remarks
        )
        return self.model(
            files,
            Scope(
                roots=Roots(own, scope.roots.home),
                known=known,
                filling=Filling(known, self._remarks),
                chain=chain,
            ),
        )


def _content(file: ComposeFile) -> bytes:
    if file.path != "-":
        return read_file(file.path, file.place)
    content = read_stdin(SIZE_MAX)
    if len(content) > SIZE_MAX:
        raise InvalidSource(file.place, f"is larger than {SIZE_MAX} bytes")
    return content


def _extends(extends: Value, name: str) -> tuple[str, Value | None]:
    """Return the service that another extends, and the file that it is in if that is another."""
    entries = extends.plain if isinstance(extends.plain, dict) else {"service": extends}
    service, file = entries.get("service"), entries.get("file")
    if service is None or not isinstance(service.plain, str) or not service.plain:
        message = (
            f"services.{name}.extends needs service; write service: NAME, and file: if it is in another file"
        )
        raise InvalidSource(extends.place, message)
    if file is not None and (not isinstance(file.plain, str) or not file.plain):
        raise InvalidSource(file.place, f"services.{name}.extends.file must be the path of a file")
    return service.plain, file


def _texts(value: Value | None, item: Value, key: str) -> list[tuple[str, SourcePlace]]:
    """Return one text or a list of them, each with its place."""
    if value is None or value.plain is None:
        return []
    items = value.plain if isinstance(value.plain, tuple) else (value,)
    found: list[tuple[str, SourcePlace]] = []
    for each in items:
        if not isinstance(each.plain, str) or not each.plain:
            raise InvalidSource(each.place, f"include: {key} must be a text, the path of a file or directory")
        found.append((each.plain, each.place))
    return found


def _with_variables(sections: dict[str, Value], known: Mapping[str, str]) -> dict[str, Value]:
    """Return sections in which variables that are named without a value have that of the environment."""
    services = {
        name: _mapped(service, "environment", lambda value: _with_values(value, known))
        for name, service in entries_of(sections, "services").items()
    }
    result = {**sections}
    if services:
        result["services"] = Value(services, sections["services"].place)
    for section in ("configs", "secrets"):
        entries = entries_of(sections, section)
        if entries:
            filled = {name: _with_content(entry, known) for name, entry in entries.items()}
            result[section] = Value(filled, sections[section].place)
    return result


def _mapped(service: Value, key: str, change: Change) -> Value:
    if not isinstance(service.plain, dict) or key not in service.plain:
        return service
    return Value({**service.plain, key: change(service.plain[key])}, service.place)


def _with_values(environment: Value, known: Mapping[str, str]) -> Value:
    plain = environment.plain
    if isinstance(plain, dict):
        entries = {
            name: Value(known[name], value.place) if value.plain is None and name in known else value
            for name, value in plain.items()
        }
        return Value(entries, environment.place)
    if isinstance(plain, tuple):
        items = tuple(
            Value(f"{item.plain}={known[item.plain]}", item.place)
            if isinstance(item.plain, str) and item.plain in known
            else item
            for item in plain
        )
        return Value(items, environment.place)
    return environment


def _with_content(entry: Value, known: Mapping[str, str]) -> Value:
    """Return a config or secret with the content that a variable holds, if it names one."""
    plain = entry.plain
    name = plain.get("environment") if isinstance(plain, dict) else None
    if (
        not isinstance(plain, dict)
        or name is None
        or not isinstance(name.plain, str)
        or name.plain not in known
    ):
        return entry
    return Value({**plain, "content": Value(known[name.plain], name.place)}, entry.place)
