import torch
def frozen(x, param):
    mean, var, factor, weight, bias = param
    s = 1 / factor
    shape = (1, -1, 1, 1)
    y = (x - (mean * s).view(shape)) / (var * s + 1e-5).view(shape).sqrt()
    return y * weight.view(shape) + bias.view(shape)
def train(x, param):
    weight, bias = param
    shape = (1, -1, 1, 1)
    mean = x.mean((0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * weight.view(shape) + bias.view(shape)
class Port(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = torch.nn.BatchNorm2d(4)
    def forward(self, x):
        return self.bn(x)

def with_state(x, param, state, fraction=0.999):
    weight, bias = param
    old_mean, old_var, factor = state
    m = x.numel() // x.shape[1]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    return {
        "y": train(x, param),
        "state[0]": fraction * old_mean + mean,
        "state[1]": fraction * old_var + m / (m - 1) * var,
        "state[2]": fraction * factor + 1,
    }
def biased(x, param, state):
    result = with_state(x, param, state)
    result["state[1]"] = 0.999 * state[1] + x.var((0, 2, 3), unbiased=False)
    return result
def forgets(x, param, state):
    return with_state(x, param, state, fraction=1)
