"""The command line: ``python -m sundog COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return an exit code: 0, or 2 for what cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m sundog", description="sundog: tasks and shared objects.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    calibrate = commands.add_parser(
        "calibrate",
        help="measure what sundog costs on this machine, for the simulator",
        description="Measure what real processes cost on this machine and store it as the profile that the simulator reads.",
    )
    calibrate.add_argument("--output", metavar="FILE", help="where to write the profile (default: the user's own)")
    calibrate.add_argument("--repeats", type=_count, default=7, metavar="N", help="measurements of which medians are taken (7)")
    calibrate.set_defaults(run=_calibrate)
    chosen = parser.parse_args(arguments)
    try:
        result: int = chosen.run(chosen)
        return result
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{parser.prog} {chosen.command}: {error}\n")
        return 2


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return count


def _calibrate(chosen: argparse.Namespace) -> int:
    import msgspec

    from sundog.backends.simulated.costs.profile import save_profile
    from sundog.calibrate import calibrate

    profile = calibrate(chosen.repeats)
    where = save_profile(profile, chosen.output)
    for field in msgspec.structs.fields(profile):
        value = getattr(profile, field.name)
        if isinstance(value, int) and field.name != "format":
            if field.name.endswith("_per_second"):
                shown = f"{value / 1e9:,.2f} GB/s"
            elif field.name == "crowded_permille":
                shown = f"{value / 1000:,.2f} times"
            else:
                shown = f"{value}     " if field.name == "cores" else f"{value / 1e3:,.1f} us  "
            name = field.name.removesuffix("_bytes_per_second").removesuffix("_permille")
            sys.stdout.write(f"{name:<18} {shown:>18}\n")
    sys.stdout.write(f"{'local latency':<18} {profile.network.local_latency / 1e3:>13,.1f} us\nwritten to {where}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
