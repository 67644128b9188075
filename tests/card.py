"""A card for machines that have none: what is on device "card" is computed on the CPU, but one operation on tensors of
both fails as it does on a real card, and so does what forgets to fetch a tensor before numpy sees it."""

import torch
import torch.utils._pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

MAY_MIX = {"aten::_copy_from", "aten::copy_", "aten::index", "aten::index_put_", "aten::_index_put_impl_"}
RESIZING = "abs", "arange", "remainder.Scalar"          # in torch's own versions, what they have made

_setup_privateuseone_for_python_backend("card")
memory: dict[int, torch.Tensor] = {}                    # of a tensor's storage; views of a tensor share it


def on_card(x) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == "card"


def put(x: torch.Tensor) -> torch.Tensor:
    """A tensor of the CPU -> one on the card."""
    there = torch._C._acc.create_empty_tensor(x.shape, x.dtype)
    memory[there.untyped_storage()._cdata] = x.clone(memory_format=torch.contiguous_format) \
        if x.storage_offset() or not x.is_contiguous() else x
    return there


def seen(x: torch.Tensor) -> torch.Tensor:
    """A tensor on the card -> its numbers, to read and write."""
    return memory[x.untyped_storage()._cdata].as_strided(x.size(), x.stride(), x.storage_offset())


def compute(operation, *args, **kwargs):
    name, given = operation._schema.name, pytree.tree_leaves((args, kwargs))
    elsewhere = [x for x in given if isinstance(x, torch.Tensor) and x.dim() and not on_card(x)]
    if elsewhere and any(map(on_card, given)) and name not in MAY_MIX:
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device")
    if name == "aten::_copy_from":
        source, target = (seen(x) if on_card(x) else x for x in args[:2])
        target.copy_(source)
        return args[1]
    if name == "aten::view":
        return put(seen(args[0]).reshape(args[1]))
    originals = {}

    def fetch(x):
        if isinstance(x, torch.device):
            return torch.device("cpu")
        if not on_card(x):
            return x
        numbers = seen(x)
        originals[id(numbers)] = x
        return numbers

    args, kwargs = pytree.tree_map(fetch, (list(args), kwargs))
    result = operation(*args, **kwargs)
    if name == "aten::_local_scalar_dense":
        return result
    return pytree.tree_map(                                                 # in place: the tensor that was given
        lambda x: originals[id(x)] if id(x) in originals else put(x) if torch.is_tensor(x) else x, result)


everything, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
everything.fallback(compute, "PrivateUse1")
for _name in RESIZING:
    _packet, _, _overload = _name.partition(".")
    _operation = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    some.impl(_name, lambda *args, operation=_operation, **kwargs: compute(operation, *args, **kwargs), "PrivateUse1")

_deepcopy = torch.Tensor.__deepcopy__                   # which would copy a storage
torch.Tensor.__deepcopy__ = lambda self, memo: (
    self.detach().clone() if on_card(self) and type(self) is torch.Tensor else _deepcopy(self, memo))
