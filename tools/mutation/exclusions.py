"""Exclude mutants without an observable effect, each with a reason; they are counted, but not run."""

import libcst as cst

_WORK = {"_DIRECT_SIZE", "_DIRECT_CHUNK", "_BLOCKS_CHUNK", "_NEWTON_STEPS", "VIEWS", "KEYS_PER_UPDATE"}
_WORK |= {"CHUNK", "CHUNKS_AT_ONCE", "GROUP_BYTES", "LARGEST"}
_CHECKS = {"fit_rows", "Registry", "cast", "TypeVar", "check_like", "custom_op"}
_BUFFERS = {"space", "part", "_product", "_features", "_backward", "_check_like"}


def reason_to_exclude(
    node: cst.CSTNode, mutated: cst.CSTNode, above: list[cst.CSTNode], module: cst.Module
) -> str | None:
    """Return the reason to exclude a mutant, or None, given the node, its mutation and the enclosing nodes."""
    chain = [*above, node]
    if any(isinstance(one, cst.Raise) for one in chain):
        return "text of an error"
    if any(isinstance(one, cst.Assign) and _target(one) in ("fitting", "interval") for one in chain):
        return "text of an error"
    if any(isinstance(one, cst.Assign) and _target(one) in ("device", "source") for one in chain):
        return "device: the same on a CPU"
    if isinstance(node, cst.Float) and isinstance(mutated, cst.Float) and float(node.value) == float(mutated.value):
        return "the same number"
    if _is_typing(chain, module):
        return "typing"
    if _is_size_of_work(chain, module):
        return "size of work: changes the speed, not the result"
    if not any(isinstance(one, cst.FunctionDef) for one in chain) and not _is_constant(chain):
        return "import time: registration"
    if _changes_only(node, mutated, above, _names_something):
        return "name in an error or of a buffer"
    if _changes_only(node, mutated, above, _is_buffer):
        return "buffer: changes the memory, not the result"
    if _changes_only(node, mutated, above, _is_device):
        return "device: the same on a CPU"
    if any(isinstance(one, cst.Param) and one.name.value == "device" for one in chain):
        return "device: the same on a CPU"
    return None


def _is_size_of_work(chain: list[cst.CSTNode], module: cst.Module) -> bool:
    assigned = next((one for one in chain if isinstance(one, cst.Assign)), None)
    inside = any(isinstance(one, cst.FunctionDef) for one in chain)
    if assigned is None or inside:
        return False
    return any(name in _WORK for name in module.code_for_node(assigned.targets[0].target).split(", "))


def _is_typing(chain: list[cst.CSTNode], module: cst.Module) -> bool:
    for one in chain:
        if isinstance(one, cst.If) and module.code_for_node(one.test) == "TYPE_CHECKING":
            return True
        if isinstance(one, cst.Call) and _called(one) in ("TypeVar", "cast"):
            return True
        if isinstance(one, cst.Assign | cst.AnnAssign):
            target = one.targets[0].target if isinstance(one, cst.Assign) else one.target
            inside = any(isinstance(outer, cst.FunctionDef) for outer in chain)
            if not inside and module.code_for_node(target) in ("__all__", "summary", "name"):
                return True
            value = module.code_for_node(one.value) if one.value is not None else ""
            if not inside and value.startswith(
                ("Literal[", "Callable[", "TypeVar(", "tuple[", "torch.Generator |", "Tensor |", "str |")
            ):
                return True
    return False


def _is_constant(chain: list[cst.CSTNode]) -> bool:
    return any(isinstance(one, cst.Assign | cst.AnnAssign) for one in chain) and not any(
        isinstance(one, cst.For) for one in chain
    )


def _changes_only(node: cst.CSTNode, mutated: cst.CSTNode, above: list[cst.CSTNode], kind: object) -> bool:
    """Return True if the change is in, or removes, an argument for which `kind(call, index, argument)` is true."""
    assert callable(kind)
    if isinstance(node, cst.Call) and isinstance(mutated, cst.Call) and node.func is mutated.func:
        kept = {id(one) for one in mutated.args}
        gone = [(place, one) for place, one in enumerate(node.args) if id(one) not in kept]
        if len(gone) == 1 and kind(node, *gone[0]):
            return True
    for place, one in enumerate(above):
        if isinstance(one, cst.Call):
            inside = above[place + 1] if place + 1 < len(above) else node
            for index, argument in enumerate(one.args):
                if argument is inside and kind(one, index, argument):
                    return True
    return False


def _names_something(call: cst.Call, place: int, argument: cst.Arg) -> bool:
    """Return True if the argument is a string that names an error or a buffer."""
    name = _called(call)
    is_named = name.startswith("check_") or name in _CHECKS or name in _BUFFERS
    return is_named and isinstance(argument.value, cst.SimpleString)


def _is_buffer(call: cst.Call, place: int, argument: cst.Arg) -> bool:
    """Return True if the argument is an output buffer."""
    return argument.keyword is not None and argument.keyword.value == "out" and isinstance(argument.value, cst.Call)


def _is_device(call: cst.Call, place: int, argument: cst.Arg) -> bool:
    """Return True if the argument passes on a device."""
    value = argument.value
    named = isinstance(value, cst.Name) and value.value in ("device", "source")
    taken = isinstance(value, cst.Attribute) and value.attr.value == "device"
    keyword = argument.keyword is not None and argument.keyword.value == "device"
    return named or taken or keyword


def _target(assigned: cst.Assign) -> str:
    target = assigned.targets[0].target
    return target.value if isinstance(target, cst.Name) else ""


def _called(call: cst.Call) -> str:
    func = call.func
    return func.attr.value if isinstance(func, cst.Attribute) else func.value if isinstance(func, cst.Name) else ""
