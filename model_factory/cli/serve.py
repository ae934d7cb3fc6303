"""Command line of the verb `serve`: a run behind OpenAI's API, on this machine."""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from model_factory.cli.options import CODES, build_verb_parser
from model_factory.cli.run_command import announce_device, run_on_folder
from model_factory.interop.serving.bodies import MAX_TOKENS
from model_factory.training.errors import UnfitError
from model_factory.yaml_config.errors import escape_controls, escape_line

EXAMPLES = f"""\
examples:
  python -m model_factory serve --run runs/mdlm            open http://127.0.0.1:8000 and type a text with holes
  python -m model_factory serve --run runs/shakespeare --port 8001 --set generation.temperature=0.7
  python -m model_factory serve --run runs/mdlm --host 10.0.0.5 --api-key-file key.txt

Routes: GET /, /health, /v1/models; POST /v1/completions, and /v1/chat/completions for runs that were trained on messages.
One request runs at a time and 8 wait. The server reads and writes no other file, and prints no prompt. SIGTERM or Ctrl-C
ends it.

{CODES}"""


def build_parser(prog: str = "model-factory serve") -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = build_verb_parser(
        prog,
        script="python -m model_factory serve",
        description="Serve a trained decoder, translator or diffusion model over HTTP, for OpenAI's clients.",
        examples=EXAMPLES,
        shared=("run", "set", "plugin"),
    )
    parser.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", metavar="P", type=_port, default=8000, help="port; 0: a free one (default: %(default)s)"
    )
    parser.add_argument("--api-key-file", metavar="F", help="file with the key that requests must have")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="name by which clients call the server, besides localhost and the address; can be repeated",
    )
    parser.add_argument("--name", metavar="NAME", help="name of the model in requests (default: that of its folder)")
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=int,
        default=MAX_TOKENS,
        help="most tokens of an answer (default: %(default)s)",
    )
    parser.add_argument("--device", metavar="D", help="cpu, cuda, ... (default: the device of the run's config)")
    return parser


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= port < 2**16:
        raise argparse.ArgumentTypeError(f"takes a number from 0 to {2**16 - 1}; got {text!r}")
    return port


def main(argv: Sequence[str] | None = None, prog: str = "model-factory serve") -> int:
    """Run the command line and return the exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if args.max_tokens < 1:
        parser.error(f"--max-tokens takes a number of tokens of at least 1; got {args.max_tokens}")
    _check_host(args, parser)
    args.json, args.num_samples, args.sampler, args.steps = False, None, None, None
    return run_on_folder(args, parser.error, lambda folder, overrides: _serve(args, folder, overrides), lambda *_: None)


def _check_host(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a usage error where other machines could call the server without a key, or by no name."""
    host = args.host.strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return
    if not args.api_key_file:
        parser.error(
            f"--host {args.host} lets other machines call the server, so it needs a key: --api-key-file FILE; for this "
            "machine alone leave --host out"
        )
    if address is not None and address.is_unspecified and not args.allow_host:
        parser.error(
            f"--host {args.host} listens on every address; say by which name clients call it: --allow-host NAME"
        )


def _serve(args: argparse.Namespace, folder: Path, overrides: list[str]) -> NoReturn:
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UnfitError(
            "serve needs the extra 'serve', which is not installed: pip install 'model-factory[serve]'"
        ) from error
    from model_factory.evaluation.run import open_run
    from model_factory.interop.serving.app import Service, check_servable
    from model_factory.interop.serving.guard import allowed_hosts
    from model_factory.interop.serving.server import Server, listen, read_key, serve

    host = args.host.strip("[]")
    key = read_key(Path(args.api_key_file)) if args.api_key_file else None
    listener = listen(host, args.port)
    run = open_run(folder, overrides, device=args.device)
    check_servable(run)
    announce_device(run)
    for note in run.notes:
        print(escape_controls(f"note: {note}"), file=sys.stderr)
    service = Service(run, args.name or folder.resolve().name, args.max_tokens)
    named = {host, *args.allow_host} - {"0.0.0.0", "::"}
    shown = f"[{host}]" if ":" in host else host
    print(
        escape_line(f"serving {service.name} on http://{shown}:{listener.getsockname()[1]}"),
        file=sys.stderr,
        flush=True,
    )
    serve(Server(service, allowed_hosts(named), key), listener)


if __name__ == "__main__":
    sys.exit(main())
