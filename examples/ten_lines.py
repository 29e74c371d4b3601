"""The smallest whole program."""

import sundog


@sundog.remote
def square(x):
    return x * x


if __name__ == "__main__":
    with sundog.init(num_workers=2):
        print(sundog.get([square.remote(i) for i in range(10)]))
