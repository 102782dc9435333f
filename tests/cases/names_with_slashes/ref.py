from torch.nn import functional as F
def natural(inception_4a_output, label, param):
    return F.cross_entropy(F.linear(inception_4a_output.flatten(1), *param), label.long())
def by_dict(**inputs):
    x, label, param = inputs["inception_4a/output"], inputs["label"], inputs["param"]
    return F.cross_entropy(F.linear(x.flatten(1), *param), label.long())
def by_dict_param(param, **inputs):
    x, label = inputs["inception_4a/output"], inputs["label"]
    return F.cross_entropy(F.linear(x.flatten(1), *param), label.long())
def by_lambda(param, **inputs):
    x, label = inputs["inception_4a/output"], inputs["lambda"]
    return F.cross_entropy(F.linear(x.flatten(1), *param), label.long())
