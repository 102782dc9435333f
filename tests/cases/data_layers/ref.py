import torch
def grid():
    k = torch.arange(8.0, dtype=torch.float64)
    return torch.stack([k % 4, k // 4], 1) + 0.5, k
def with_x(x):
    c, k = grid()
    return ((x - c) ** 2).sum() / (2 * len(x))
def classified(x, label, param):
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, *param), label.long())
